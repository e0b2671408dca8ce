"""What is kept on disk: the state to resume from, and the best model."""

import logging
from pathlib import Path
from threading import Event, Timer

import pytest
import torch

from config.params import CheckpointOptions
from engine import checkpointing
from engine.checkpointing import AsyncCheckpointer, BestCheckpoint
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


@pytest.fixture
def best(tmp_path: Path) -> BestCheckpoint:
    return BestCheckpoint(tmp_path / "model_best.pth")


def test_what_changes_after_a_save_is_not_in_the_file(path: Path, best: BestCheckpoint) -> None:
    weight = torch.arange(12.0).view(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    records = [{"epoch": 1}]

    def change() -> None:
        # Called by the thread that writes: the training goes on meanwhile.
        weight.fill_(-1.0)
        records.append({"epoch": 2})

    with AsyncCheckpointer(path, OPTIONS, change, best) as checkpointer:
        checkpointer.save({"model": {"weight": weight}, "records": records, "step": 3}, 3)
    saved = load_tensors(path)
    assert torch.equal(saved["model"]["weight"], torch.arange(12.0).view(1, 3, 2, 2))
    assert saved["model"]["weight"].stride() == weight.stride()
    assert saved["records"] == [{"epoch": 1}]


def test_what_a_run_relies_on_is_flushed_before_the_state_is_written(path: Path, best: BestCheckpoint) -> None:
    seen = []
    with AsyncCheckpointer(path, OPTIONS, lambda: seen.append(path.exists()), best) as checkpointer:
        checkpointer.save_first({"step": 0})
        checkpointer.save({"step": 1}, 1, wait=True)
        assert load_tensors(path)["step"] == 1
        checkpointer.save({"step": 2}, 2)
        checkpointer.save({"step": 3}, 3)  # waits for the one before
    assert seen == [False, True, True, True]
    assert load_tensors(path)["step"] == 3


def test_a_full_disk_is_logged_and_the_file_stays(
    path: Path, best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with AsyncCheckpointer(path, OPTIONS, lambda: None, best) as checkpointer:
        checkpointer.save({"step": 1}, 1, wait=True)
        monkeypatch.setattr(checkpointing, "save_tensors", full)
        checkpointer.save({"step": 2}, 2, wait=True)
        assert load_tensors(path)["step"] == 1
        assert "No space left on device; the state of step 2 is not saved" in caplog.text
        with pytest.raises(DataError, match="No space left"):
            checkpointer.save_first({"step": 0})
        monkeypatch.setattr(checkpointing, "save_tensors", save_tensors)
        checkpointer.save({"step": 3}, 3, wait=True)
        assert "written again, at step 3" in caplog.text
    assert load_tensors(path)["step"] == 3


def test_an_internal_error_of_the_writing_thread_is_raised(path: Path, best: BestCheckpoint) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with AsyncCheckpointer(path, OPTIONS, fail, best) as checkpointer:
        checkpointer.save({"step": 1}, 1)
        with pytest.raises(ZeroDivisionError):
            checkpointer.finish()


def test_states_are_saved_by_steps_and_by_time(
    path: Path, best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AsyncCheckpointer(path, CheckpointOptions(every_steps=3, every_minutes=0), lambda: None, best) as checkpointer:
        assert [checkpointer.is_due(step) for step in range(1, 7)] == [False, False, True] * 2
    now = 1000.0
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now)
    with AsyncCheckpointer(path, CheckpointOptions(every_minutes=2), lambda: None, best) as checkpointer:
        now += 119.0
        assert not checkpointer.is_time()
        now += 1.0
        assert checkpointer.is_time()
        checkpointer.save({"step": 2}, 2)
        assert not checkpointer.is_time()


def write_state(path: Path) -> bool:
    best = BestCheckpoint(path)
    with AsyncCheckpointer(path.with_name(f"{this_process().rank}"), OPTIONS, lambda: None, best) as checkpointer:
        checkpointer.save({"step": 1}, 1, wait=True)
    return checkpointer.path.exists()


def test_only_rank_0_writes(path: Path) -> None:
    assert run_in_processes(write_state, 2, path) == [True, False]


def model(number: float, score: float | None) -> Checkpoint:
    return Checkpoint({"weight": torch.tensor(number)}, {}, [], {} if score is None else {"mAP": score})


def offer(best: BestCheckpoint, score: float | None, number: float) -> float:
    """Offer a model that is known by a number; returns that of the model in the file."""
    if best.is_better(score):
        best.keep(score, model(number, score))
    best.write_if_possible()
    return load_checkpoint(best.path).model["weight"].item()


def test_only_a_better_model_replaces_the_best(best: BestCheckpoint) -> None:
    # Of equal scores the earlier model stays.
    assert [offer(best, score, number) for number, score in enumerate([0.5, 0.5, 0.4, 0.6])] == [0, 0, 0, 3]
    best.write_if_possible()  # as after an epoch without evaluation
    assert load_checkpoint(best.path).metrics == {"mAP": 0.6}
    assert best.score == 0.6


def test_without_evaluation_the_last_model_is_kept(best: BestCheckpoint) -> None:
    assert [offer(best, None, number) for number in (1, 2)] == [1, 2]


def test_a_model_that_cannot_be_written_waits_in_memory(
    best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
    best: BestCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    offer(best, 0.5, 1)
    again = BestCheckpoint(best.path)
    again.restore(0.5)
    assert (offer(again, 0.4, 2), caplog.text) == (1, "")
    best.path.write_bytes(b"damaged")
    again.restore(0.5)
    assert "the best model is lost" in caplog.text
    assert offer(again, 0.1, 3) == 3


def test_the_best_model_is_written_while_training_continues(
    path: Path, best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = Event()

    def save(target: Path, checkpoint: Checkpoint) -> None:
        assert may_write.wait(60)
        save_checkpoint(target, checkpoint)

    monkeypatch.setattr(checkpointing, "save_checkpoint", save)
    with AsyncCheckpointer(path, OPTIONS, lambda: None, best) as checkpointer:
        best.keep(0.5, model(1, 0.5))
        checkpointer.write_best()
        # Returned before the model is written; until then no other score beats it, and no state claims it.
        assert not best.path.exists()
        assert (best.is_better(0.5), best.is_better(0.6)) == (False, True)
        assert best.score is None
        best.keep(0.6, model(2, 0.6))  # while the first one is being written
        checkpointer.write_best()
        Timer(0.1, may_write.set).start()
        checkpointer.finish()
        assert (load_checkpoint(best.path).model["weight"].item(), best.score) == (2, 0.6)


def test_a_state_claims_the_best_model_that_is_in_the_file_when_it_is_written(
    path: Path, best: BestCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def save(target: Path, content: dict[str, object]) -> None:
        written.append((target.name, content["best_score"], best.path.exists()))

    monkeypatch.setattr(checkpointing, "save_tensors", save)
    with AsyncCheckpointer(path, OPTIONS, lambda: None, best) as checkpointer:
        best.keep(0.5, model(1, 0.5))
        checkpointer.write_best()
        # As a training does, which goes on before the model is written: its state is older than the file.
        checkpointer.save({"best_score": None}, 1, wait=True)
        monkeypatch.setattr(checkpointing, "save_checkpoint", full)
        best.keep(0.7, model(2, 0.7))
        checkpointer.write_best()
        checkpointer.save({"best_score": 0.5}, 2, wait=True)
        monkeypatch.setattr(checkpointing, "save_checkpoint", save_checkpoint)
        checkpointer.save({"best_score": 0.5}, 3, wait=True)  # there is room again
    assert written == [("last.pth", 0.5, True), ("last.pth", 0.5, True), ("last.pth", 0.7, True)]
    assert load_checkpoint(best.path).metrics == {"mAP": 0.7}
