import threading
from pathlib import Path

import pytest
import torch

from engine import state_writer
from engine.checkpointing import AsyncCheckpointer
from utils.checkpoint import load_tensors
from utils.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.pth"


def test_what_changes_after_the_copy_is_not_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may change once they are copied; everything else at once."""
    weight = torch.arange(12.0).view(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    mean, records = torch.zeros(3), [{"epoch": 1}]
    go_on = threading.Event()
    copy = state_writer._copy

    def slow_copy(tensor: torch.Tensor) -> torch.Tensor:
        go_on.wait(10)
        return copy(tensor)

    monkeypatch.setattr(state_writer, "_copy", slow_copy)
    with AsyncCheckpointer(path, CPU, lambda: None) as writer:
        state = {"model": {"weight": weight, "mean": mean}, "records": records, "step": 3}
        writer.write(state, [weight], "step 3")
        mean.fill_(7.0)
        records.append({"epoch": 2})
        go_on.set()
        writer.wait_until_copied()
        weight.fill_(-1.0)
        writer.finish()
        assert writer.written == "step 3"
    saved = load_tensors(path)
    assert torch.equal(saved["model"]["weight"], torch.arange(12.0).view(1, 3, 2, 2))
    assert saved["model"]["weight"].stride() == weight.stride()
    assert torch.equal(saved["model"]["mean"], torch.zeros(3))
    assert saved["records"] == [{"epoch": 1}]


def test_what_a_run_relies_on_is_on_the_disk_before_the_state(path: Path) -> None:
    seen = []
    with AsyncCheckpointer(path, CPU, lambda: seen.append(path.exists())) as writer:
        writer.write_now({"step": 1}, "step 1")
        assert writer.written == "step 1"
        writer.write({"step": 2}, (), "step 2")
        writer.write({"step": 3}, (), "step 3")  # waits for the one before
    assert seen == [False, True, True]
    assert load_tensors(path) == {"step": 3}


def test_a_full_disk_is_told_and_the_file_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    save = state_writer.save_tensors

    def full(path: Path, content: object) -> None:
        raise DataError(f"{path}: cannot be written: No space left on device")

    with AsyncCheckpointer(path, CPU, lambda: None) as writer:
        writer.write_now({"step": 1}, "step 1")
        assert writer.written == "step 1"
        monkeypatch.setattr(state_writer, "save_tensors", full)
        writer.write_now({"step": 2}, "step 2")
        assert writer.written == "step 1"
        assert load_tensors(path) == {"step": 1}
        assert "No space left on device; the state of step 2 is not saved; that of step 1 stays" in caplog.text
        monkeypatch.setattr(state_writer, "save_tensors", save)
        writer.write_now({"step": 3}, "step 3")
        assert writer.written == "step 3"
        assert "written again, at step 3" in caplog.text
    assert load_tensors(path) == {"step": 3}


def test_a_failure_of_ours_is_not_swallowed(path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with AsyncCheckpointer(path, CPU, fail) as writer:
        writer.write({"step": 1}, (), "step 1")
        writer.wait_until_copied()
        with pytest.raises(ZeroDivisionError):
            writer.finish()


def test_only_the_first_of_several_processes_writes(path: Path) -> None:
    with AsyncCheckpointer(path, CPU, lambda: None, writes=False) as writer:
        writer.write_now({"step": 1}, "step 1")
        writer.wait_until_copied()
    assert not path.exists()
