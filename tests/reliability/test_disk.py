"""A disk that is full or may not be written stops no training, and what it missed is made up for."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.conftest import Started
from tests.disks import SmallDisk
from tests.reliability.runs import Run
from tests.runs import DOCUMENTED, curves_of, files_of, records_of

MIB = 1 << 20


@contextmanager
def halted(training: Started, run: Run) -> Iterator[None]:
    """It stands still within this block, and no file is half written, which might still take the old one's place."""
    while True:
        training.process.send_signal(signal.SIGSTOP)
        try:
            while Path(f"/proc/{training.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)
            if not any(run.path.glob(".*.tmp")):
                yield
                return
        finally:
            training.process.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def ended(training: Started) -> int:
    """Its exit code."""
    process = training.finish()
    assert "Traceback" not in process.stderr, process.stderr
    assert "Logging error" not in process.stderr, process.stderr
    return process.returncode


def epochs(run: Run) -> list[int]:
    """Of metrics.jsonl, every line of which is whole."""
    return [record["epoch"] for record in records_of(run.path)]


def curve(run: Run) -> list[int]:
    """The steps of a curve in TensorBoard."""
    return [step for step, _ in curves_of(run.path)["epoch/accuracy"]]


def assert_complete(run: Run, num_epochs: int) -> None:
    """It left what every finished run leaves."""
    assert files_of(run.path) == DOCUMENTED
    assert epochs(run) == list(range(1, num_epochs + 1))
    steps = curve(run)
    assert len(steps) == len(set(steps)) == num_epochs
    assert steps == sorted(steps)
    assert torch.load(run.path / "model_best.pth", weights_only=True)["format"] == 1


# Nothing fits; or the small files, and a part of the large ones.
@pytest.mark.parametrize("leave", [0, pytest.param(20 * MIB, marks=pytest.mark.slow)])
def test_a_disk_full_to_the_end_loses_nothing_that_lay_there(disk: SmallDisk, tmp_path: Path, leave: int) -> None:
    run = Run(disk.path / "full", evaluation_params={"type": None})  # every epoch has a model to keep
    with run.start() as training:
        # The model is written while training continues.
        training.wait_until(lambda: run.lines() and (run.path / "model_best.pth").exists(), "an epoch and its model")
        with halted(training, run):
            disk.fill(leave)
        code = ended(training)
        assert code == 2, training.stderr
        assert "No space left on device" in training.stderr
        assert training.stderr.count("curves are not written") <= 1
    before = epochs(run)
    assert before == list(range(1, len(before) + 1))
    assert torch.load(run.path / "model_best.pth", weights_only=True)["format"] == 1
    assert files_of(run.path) == {*DOCUMENTED, "last.pth"}
    disk.free()
    run.finish()
    assert_complete(run, 3)


def test_a_training_goes_on_over_a_full_disk(disk: SmallDisk, tmp_path: Path) -> None:
    run = Run(disk.path / "full", epoch=1000, evaluation_params={"type": None})
    with run.start() as training:
        training.wait_until(run.lines, "an epoch")
        told = [rf"{name}: .*No space left" for name in ("last.pth", "model_best.pth", "metrics.jsonl")]
        told.append("curves .*No space left")

        def all_told() -> bool:
            disk.fill()  # once more: a file that was half written when the disk became full has left room
            return all(re.search(pattern, training.stderr) for pattern in told)

        training.wait_until(all_told, "a message for everything that cannot be written")
        disk.free()
        training.wait_until(lambda: re.search(r"last\.pth: written again", training.stderr), "a state written again")
        lines = run.lines()
        training.wait_until(lambda: run.lines() > lines, "an epoch after it")
        training.process.send_signal(signal.SIGTERM)
        assert ended(training) == 143
    assert len(re.findall(told[-1], training.stderr)) == 1
    found = epochs(run)
    assert found == list(range(1, len(found) + 1))
    steps = curve(run)
    assert len(steps) < len(found)
    assert steps == [steps[0] * epoch for epoch in range(1, len(steps) + 1)]
    assert files_of(run.path) == {*DOCUMENTED, "last.pth"}


def unprivileged() -> list[str]:
    """A prefix with which a command is held to the permissions of files, as everybody but root is."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here, and root may write everywhere")
    return ["setpriv", "--bounding-set=-dac_override"]


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_any_more_is_made_up_for(tmp_path: Path) -> None:
    run = Run(tmp_path / "closed", evaluation_params={"type": None})
    with run.start(launcher=unprivileged()) as training:
        training.wait_until(run.lines, "an epoch")
        with halted(training, run):
            run.path.chmod(0o500)
        try:
            assert ended(training) == 2, training.stderr
            assert "Permission denied" in training.stderr
        finally:
            run.path.chmod(0o700)
    # What was open stays so: the curves miss nothing.
    assert len(curve(run)) == 3
    run.finish()
    assert_complete(run, 3)


@pytest.mark.slow
def test_a_run_is_not_resumed_on_a_read_only_disk(disk: SmallDisk) -> None:
    run = Run(disk.path / "closed")
    code, told = run.stopped_at(lambda run: lambda: run.lines() > 0)
    assert code == -signal.SIGKILL, told
    disk.read_only(True)
    process = run.script.run("train.py", *run.arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "Read-only file system" in process.stderr
    disk.read_only(False)
    run.finish()
    assert_complete(run, 3)
