"""What is kept on disk: the state to resume from, the best model, and when all processes stop."""

import logging
import signal
from pathlib import Path

import pytest
import torch

from config.params import CheckpointOptions
from engine import checkpointing
from engine.checkpointing import AsyncCheckpointer, BestCheckpoint, Request, StopConsensus
from tests.processes import run_in_processes
from utils.checkpoint import Checkpoint, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from utils.distributed import this_process
from utils.errors import DataError

OPTIONS = CheckpointOptions(every_steps=3)


def full(path: Path, content: object) -> None:
    raise DataError(f"{path}: cannot be written: No space left on device")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.pth"


def test_what_changes_after_a_save_is_not_in_the_file(path: Path) -> None:
    weight = torch.arange(12.0).view(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    records = [{"epoch": 1}]

    def change() -> None:
        # Called by the thread that writes: the training goes on meanwhile.
        weight.fill_(-1.0)
        records.append({"epoch": 2})

    with AsyncCheckpointer(path, OPTIONS, change) as checkpointer:
        checkpointer.save({"model": {"weight": weight}, "records": records, "step": 3}, 3)
    saved = load_tensors(path)
    assert torch.equal(saved["model"]["weight"], torch.arange(12.0).view(1, 3, 2, 2))
    assert saved["model"]["weight"].stride() == weight.stride()
    assert saved["records"] == [{"epoch": 1}]


def test_what_a_run_relies_on_is_flushed_before_the_state_is_written(path: Path) -> None:
    seen = []
    with AsyncCheckpointer(path, OPTIONS, lambda: seen.append(path.exists())) as checkpointer:
        checkpointer.save_first({"step": 0})
        checkpointer.save({"step": 1}, 1, wait=True)
        assert load_tensors(path) == {"step": 1}
        checkpointer.save({"step": 2}, 2)
        checkpointer.save({"step": 3}, 3)  # waits for the one before
    assert seen == [False, True, True, True]
    assert load_tensors(path) == {"step": 3}


def test_a_full_disk_is_logged_and_the_file_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with AsyncCheckpointer(path, OPTIONS, lambda: None) as checkpointer:
        checkpointer.save({"step": 1}, 1, wait=True)
        monkeypatch.setattr(checkpointing, "save_tensors", full)
        checkpointer.save({"step": 2}, 2, wait=True)
        assert load_tensors(path) == {"step": 1}
        assert "No space left on device; the state of step 2 is not saved" in caplog.text
        with pytest.raises(DataError, match="No space left"):
            checkpointer.save_first({"step": 0})
        monkeypatch.setattr(checkpointing, "save_tensors", save_tensors)
        checkpointer.save({"step": 3}, 3, wait=True)
        assert "written again, at step 3" in caplog.text
    assert load_tensors(path) == {"step": 3}


def test_an_internal_error_of_the_writing_thread_is_raised(path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with AsyncCheckpointer(path, OPTIONS, fail) as checkpointer:
        checkpointer.save({"step": 1}, 1)
        with pytest.raises(ZeroDivisionError):
            checkpointer.finish()


def test_states_are_saved_by_steps_and_by_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AsyncCheckpointer(path, CheckpointOptions(every_steps=3, every_minutes=0), lambda: None) as checkpointer:
        assert [checkpointer.is_due(step) for step in range(1, 7)] == [False, False, True] * 2
    now = 1000.0
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now)
    with AsyncCheckpointer(path, CheckpointOptions(every_minutes=2), lambda: None) as checkpointer:
        now += 119.0
        assert not checkpointer.is_time()
        now += 1.0
        assert checkpointer.is_time()
        checkpointer.save({"step": 2}, 2)
        assert not checkpointer.is_time()


def write_state(path: Path) -> bool:
    with AsyncCheckpointer(path.with_name(f"{this_process().rank}"), OPTIONS, lambda: None) as checkpointer:
        checkpointer.save({"step": 1}, 1, wait=True)
    return checkpointer.path.exists()


def test_only_rank_0_writes(path: Path) -> None:
    assert run_in_processes(write_state, 2, path) == [True, False]


def test_a_single_process_gets_its_answer_at_once() -> None:
    consensus = StopConsensus()
    assert consensus.exchange(signal.SIGTERM, True) == Request(signal.SIGTERM, True)
    assert consensus.exchange(0, False) == Request()
    assert consensus.close() == 0


def ask() -> list[Request | int]:
    rank, consensus = this_process().rank, StopConsensus()
    wishes = [Request(), Request(0, rank == 0), Request(signal.SIGINT if rank == 1 else 0), Request()]
    answers = [consensus.exchange(*wish) for wish in wishes]
    return [*answers, consensus.close(), consensus.close()]


def test_all_processes_get_the_same_answer_one_step_later() -> None:
    first, second = run_in_processes(ask, 2)
    assert first == second
    assert first == [Request(), Request(), Request(0, True), Request(signal.SIGINT), 0, 0]


def model(number: float, score: float | None) -> Checkpoint:
    return Checkpoint({"weight": torch.tensor(number)}, {}, [], {} if score is None else {"mAP": score})


def offer(best: BestCheckpoint, score: float | None, number: float) -> float:
    """Offer a model that is known by a number; returns that of the model in the file."""
    if best.is_better(score):
        best.keep(score, model(number, score))
    best.write_if_possible()
    return load_checkpoint(best.path).model["weight"].item()


def test_only_a_better_model_replaces_the_best(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "model_best.pth")
    # Of equal scores the earlier model stays.
    assert [offer(best, score, number) for number, score in enumerate([0.5, 0.5, 0.4, 0.6])] == [0, 0, 0, 3]
    best.write_if_possible()  # as after an epoch without evaluation
    assert load_checkpoint(best.path).metrics == {"mAP": 0.6}
    assert best.score == 0.6


def test_without_evaluation_the_last_model_is_kept(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "model_best.pth")
    assert [offer(best, None, number) for number in (1, 2)] == [1, 2]


def test_a_model_that_cannot_be_written_waits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    best = BestCheckpoint(tmp_path / "model_best.pth")
    offer(best, 0.5, 1)
    monkeypatch.setattr(checkpointing, "save_checkpoint", full)
    # A state saved now must not claim a score whose model would be lost with the process.
    assert (offer(best, 0.7, 2), best.score) == (1, 0.5)
    assert "No space left on device; training continues" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    offer(best, 0.6, 3)  # better than the file's, not than the one that waits
    with pytest.raises(DataError, match="No space left"):
        best.write()
    monkeypatch.setattr(checkpointing, "save_checkpoint", save_checkpoint)
    best.write()
    assert (load_checkpoint(best.path).model["weight"].item(), best.score) == (2, 0.7)


def test_a_resumed_run_keeps_its_best_model_unless_the_file_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = BestCheckpoint(tmp_path / "model_best.pth")
    offer(best, 0.5, 1)
    again = BestCheckpoint(best.path)
    again.restore(0.5)
    assert (offer(again, 0.4, 2), caplog.text) == (1, "")
    best.path.write_bytes(b"damaged")
    again.restore(0.5)
    assert "the best model is lost" in caplog.text
    assert offer(again, 0.1, 3) == 3
