"""Trainings that are killed and go on, and what tells two finished runs apart."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import Script, Started
from tests.runs import curves_of, files_of, num_epochs, pictures_of, records_of

NAME = "run"
SYNTHETIC = {"train_identities": 8, "test_identities": 4, "cameras": 3, "distractors": 2, "junk": 1}

Reached = Callable[[], bool]
Moment = Callable[["Run"], Reached]
"""Given a run that has just been started, says whether it has come to a certain moment."""


class Run:
    """A training of the synthetic pedestrians in a folder of its own, where these are made first."""

    def __init__(self, folder: Path, **params: object) -> None:
        folder.mkdir()
        self.script = Script(folder)
        settings = {"batches_dir": "synthetic", "synthetic": SYNTHETIC, "epoch": 3, "log_every": 3}
        self.script.write_params(**{**settings, **params})  # pyright: ignore[reportArgumentType]
        self.folder = folder
        self.path = folder / "runs" / NAME
        self.seconds = 0.0
        """What `finish` took."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of train.py: start the run, or go on with it once it has a folder to go on in."""
        operation = "resume_train" if (self.path / "params.json").exists() else "start_train"
        return "--operation", operation, "--sub_working_dir", NAME

    def start(self, launcher: Sequence[str] = ()) -> Started:
        return self.script.start("train.py", *self.arguments, launcher=launcher)

    def finish(self) -> str:
        """Train to the end; returns its messages."""
        start = time.monotonic()
        process = self.start().finish()
        self.seconds = time.monotonic() - start
        assert process.returncode == 0, process.stderr
        return process.stderr

    def stopped_at(self, moment: Moment, number: int = signal.SIGKILL) -> tuple[int, str]:
        """Train until a moment has come, and send a signal; the exit code and the messages."""
        reached = moment(self)
        with self.start() as training:
            training.wait_until(reached)
            process = training.stop(number)
        return process.returncode, process.stderr

    def log(self) -> str:
        """What its train_log says so far."""
        log = self.path / "train_log"
        return log.read_text() if log.exists() else ""

    def lines(self) -> int:
        """Lines of metrics.jsonl so far."""
        return num_epochs(self.path)

    def outcome(self) -> dict[str, Any]:
        """All that a finished run leaves behind, but for the clock's readings; and whatever else lies about."""
        return {
            "model": (self.path / "model_best.pth").read_bytes(),
            "metrics": records_of(self.path),
            "curves": curves_of(self.path),
            "pictures": pictures_of(self.path),
            "files": files_of(self.path) | {str(entry.relative_to(self.folder)) for entry in self.folder.glob("*/*")},
        }


def after(least: float, most: float, chance: random.Random) -> Moment:
    """Some time after the start, in seconds."""

    def moment(run: Run) -> Reached:
        due = time.monotonic() + chance.uniform(least, most)
        return lambda: time.monotonic() >= due

    return moment


def making_the_data_set(run: Run) -> Reached:
    """Images are drawn, into a folder that is not the data set yet."""
    return lambda: any(path.is_dir() for path in (run.folder / "datasets").glob(".synthetic*"))


def caching(run: Run) -> Reached:
    """The data set is known; network and images are brought into memory."""
    return lambda: "data set synthetic" in run.log()


def saving(run: Run) -> Reached:
    """last.pth is being written."""
    return lambda: any(run.path.glob(".last.pth*tmp"))


def evaluating(run: Run) -> Reached:
    """The state at the end of an epoch is saved; its metrics are not recorded yet."""
    last, lines = run.path / "last.pth", run.lines()
    before = _inode(last)
    return lambda: last.exists() and _inode(last) != before and (before != 0 or run.lines() > lines)


def keeping_the_best(run: Run) -> Reached:
    """model_best.pth is being written."""
    return lambda: any(run.path.glob(".model_best.pth*tmp"))


def recording(run: Run) -> Reached:
    """The best model is there, its epoch not recorded yet; or it is this very moment."""
    best = run.path / "model_best.pth"
    before = _inode(best)
    return lambda: best.exists() and _inode(best) != before


def stepping(run: Run) -> Reached:
    """An epoch has ended and is recorded, and the losses of the next one's first steps have been read."""
    lines, sizes = run.lines(), list[int]()

    def reached() -> bool:
        if run.lines() > lines:
            # What is added now is no epoch's record: that stands in the events before it does in metrics.jsonl.
            sizes.append(sum(path.stat().st_size for path in run.path.glob("events.out.*")))
        return len(sizes) > 1 and sizes[-1] > sizes[0]

    return reached


MOMENTS: tuple[Moment, ...] = (making_the_data_set, caching, saving, evaluating, keeping_the_best, recording, stepping)


def differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    """What two outcomes differ in, in words short enough for a message."""
    for name in one:
        if one[name] != other[name]:
            yield f"{name}: {str(one[name])[:300]} against {str(other[name])[:300]}"


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0
