"""A disk that is full or may not be written stops no training, and what it missed is made up for."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.disks import SmallDisk
from tests.reliability.runs import Run

MIB = 1 << 20
DOCUMENTED = {"params.json", "train_log", "metrics.jsonl", "events.out.tfevents.*", "model_best.pth"}


class Watched:
    """train.py while it runs, seen from outside.

    Args:
        run: what it trains.
        told: where its screen's lines go; on a disk with room.
        prefix: a program that starts it in its own way.
    """

    def __init__(self, run: Run, told: Path, prefix: Sequence[str] = ()) -> None:
        self.run = run
        self.told = told
        with told.open("wb") as file:
            self.process = subprocess.Popen(
                [*prefix, *run.script.command("train.py", *run.arguments)],
                cwd=run.folder,
                env=run.script.environment(),
                stderr=file,
            )

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        """Return once it has come to a point; it must not end before."""
        deadline = time.monotonic() + 120
        while not reached():
            assert self.process.poll() is None, f"ended before {what}:\n{self.screen()}"
            assert time.monotonic() < deadline, f"no {what} in two minutes:\n{self.screen()}"
            time.sleep(0.005)

    def wait_for_words(self, *patterns: str) -> None:
        """Return once its screen has shown them all, in any order."""
        for pattern in patterns:
            self.wait_for(lambda: re.search(pattern, self.screen()) is not None, pattern)  # noqa: B023 used at once

    @contextmanager
    def halted(self) -> Iterator[None]:
        """It stands still within this block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def halted_between_files(self) -> Iterator[None]:
        """As `halted`, while no file is half written: it might still take its place and free that of the old one."""
        while True:
            with self.halted():
                if not any(self.run.path.glob(".*.tmp")):
                    yield
                    return
            time.sleep(0.05)

    def screen(self) -> str:
        """What it has told so far."""
        return self.told.read_text()

    def ended(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=120)
        assert "Traceback" not in self.screen(), self.screen()
        assert "Logging error" not in self.screen(), self.screen()
        return code

    def end(self) -> int:
        """Ask it to stop; its exit code."""
        self.process.terminate()
        return self.ended()


@contextmanager
def watched(run: Run, told: Path, prefix: Sequence[str] = ()) -> Iterator[Watched]:
    """It does not outlive this block."""
    process = Watched(run, told, prefix)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def epochs(run: Run) -> list[int]:
    """Of metrics.jsonl, every line of which is whole."""
    return [json.loads(line)["epoch"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def curve(run: Run, tag: str = "epoch/accuracy") -> list[int]:
    """The steps of a curve in TensorBoard."""
    events = EventAccumulator(str(run.path), {"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def names(run: Run) -> set[str]:
    """What lies in its folder."""
    return {re.sub(r"tfevents\..*", "tfevents.*", entry.name) for entry in run.path.iterdir()}


def assert_complete(run: Run, num_epochs: int) -> None:
    """It left what every finished run leaves."""
    assert names(run) == DOCUMENTED
    assert epochs(run) == list(range(1, num_epochs + 1))
    steps = curve(run)
    assert len(steps) == len(set(steps)) == num_epochs
    assert steps == sorted(steps)
    assert torch.load(run.path / "model_best.pth", weights_only=True)["format"] == 1


# Nothing fits; or the small files, and a part of the large ones.
@pytest.mark.parametrize("leave", [0, pytest.param(20 * MIB, marks=pytest.mark.slow)])
def test_a_disk_full_to_the_end_loses_nothing_that_lay_there(disk: SmallDisk, tmp_path: Path, leave: int) -> None:
    run = Run(disk.path / "full", evaluation_params={"type": None})  # every epoch has a model to keep
    with watched(run, tmp_path / "told") as training:
        training.wait_for(lambda: run.lines() > 0, "an epoch")
        with training.halted_between_files():
            disk.fill(leave)
        code = training.ended()
        assert code == 2, training.screen()
        assert "No space left on device" in training.screen()
        assert training.screen().count("curves are not written") <= 1
    before = epochs(run)
    assert before == list(range(1, len(before) + 1))
    assert torch.load(run.path / "model_best.pth", weights_only=True)["format"] == 1
    assert names(run) == {*DOCUMENTED, "last.pth"}
    disk.free()
    run.finish()
    assert_complete(run, 3)


def test_a_training_goes_on_over_a_full_disk(disk: SmallDisk, tmp_path: Path) -> None:
    run = Run(disk.path / "full", epoch=1000, evaluation_params={"type": None})
    with watched(run, tmp_path / "told") as training:
        training.wait_for(lambda: run.lines() > 0, "an epoch")
        files = ("last.pth", "model_best.pth", "metrics.jsonl")
        told = [rf"{name}: cannot be written: No space left" for name in files]
        told.append(r"curves are not written any more: No space left on device; free some space")

        def all_told() -> bool:
            disk.fill()  # once more: a file that was half written when the disk became full has left room
            return all(re.search(pattern, training.screen()) for pattern in told)

        training.wait_for(all_told, "a word of everything that cannot be written")
        disk.free()
        training.wait_for_words(r"last\.pth: written again")
        lines = run.lines()
        training.wait_for(lambda: run.lines() > lines, "an epoch after it")
        assert training.end() == 143
        assert training.screen().count("curves are not written") == 1
    found = epochs(run)
    assert found == list(range(1, len(found) + 1))
    steps = curve(run)
    assert len(steps) < len(found)
    assert steps == [steps[0] * epoch for epoch in range(1, len(steps) + 1)]
    assert names(run) == {*DOCUMENTED, "last.pth"}


def unprivileged() -> list[str]:
    """A prefix with which a command is held to the permissions of files, as everybody but root is."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here, and root may write everywhere")
    return ["setpriv", "--bounding-set=-dac_override"]


def test_a_folder_that_may_not_be_written_any_more_is_made_up_for(tmp_path: Path) -> None:
    run = Run(tmp_path / "closed", evaluation_params={"type": None})
    with watched(run, tmp_path / "told", unprivileged()) as training:
        training.wait_for(lambda: run.lines() > 0, "an epoch")
        with training.halted_between_files():
            run.path.chmod(0o500)
        try:
            assert training.ended() == 2, training.screen()
            assert "Permission denied" in training.screen()
        finally:
            run.path.chmod(0o700)
    # What was open stays so: the curves miss nothing.
    assert len(curve(run)) == 3
    run.finish()
    assert_complete(run, 3)


def test_a_run_is_not_resumed_on_a_read_only_disk(disk: SmallDisk) -> None:
    run = Run(disk.path / "closed")
    code, told = run.stopped_at(lambda run: lambda: run.lines() > 0)
    assert code == -signal.SIGKILL, told
    # `stopped_at` keeps what was told on this disk: now nothing is open there.
    disk.read_only(True)
    process = run.script.run("train.py", *run.arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "Read-only file system" in process.stderr
    disk.read_only(False)
    run.finish()
    assert_complete(run, 3)
