import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from benchmarks.trainings import Job, threads_each, train_all
from utils.errors import UserError
from utils.process import num_cpus

FINISH = "import pathlib, time; time.sleep({seconds}); pathlib.Path({run!r}, 'model_best.pth').touch()"
FAIL = "import sys; print('out of luck'); sys.exit(3)"
WAIT_FOR_INTERRUPT = """
import pathlib, time
pathlib.Path({run!r}, 'began').touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({run!r}, 'last.pth').touch()
"""


class Trainings:
    """Starts scripts in place of train.py, and notes what has ended whenever one begins."""

    def __init__(self, folder: Path, **scripts: str) -> None:
        self.folder = folder
        self.scripts = scripts
        self.begun: list[str] = []
        self.done_before: dict[str, set[str]] = {}
        self.most_at_once = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def job(self, name: str, *needs: str) -> Job:
        return Job(name, Path("none.json"), (), self.folder, frozenset(needs))

    def start(self, job: Job, threads: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
        job.run.mkdir(exist_ok=True)
        self.begun.append(job.name)
        self.done_before[job.name] = {path.parent.name for path in self.folder.glob("*/model_best.pth")}
        script = self.scripts.get(job.name, FINISH).format(run=str(job.run), seconds=0.2)
        process = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=output, stderr=output)
        self.processes.append(process)
        self.most_at_once = max(self.most_at_once, sum(each.poll() is None for each in self.processes))
        return process


def test_a_teacher_is_trained_before_its_students_whatever_their_order(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    jobs = [trainings.job("student", "teacher", "other"), trainings.job("other"), trainings.job("teacher")]
    train_all(jobs, 2, trainings.start)
    assert trainings.begun == ["other", "teacher", "student"]
    assert trainings.done_before["student"] == {"other", "teacher"}


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_run_at_a_time(tmp_path: Path, at_once: int) -> None:
    trainings = Trainings(tmp_path)
    train_all([trainings.job(name) for name in "abcde"], at_once, trainings.start)
    assert trainings.begun == list("abcde")
    assert trainings.most_at_once == at_once


def test_finished_runs_are_not_repeated_and_satisfy_what_needs_them(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model_best.pth").touch()
    train_all([trainings.job("student", "teacher"), trainings.job("teacher")], 1, trainings.start)
    assert trainings.begun == ["student"]


def test_after_a_failure_what_runs_is_finished_and_nothing_else_begun(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, bad=FAIL)
    jobs = [trainings.job("bad"), trainings.job("good"), trainings.job("later"), trainings.job("student", "bad")]
    with pytest.raises(UserError, match=r"(?s)^bad: train.py failed with exit code 3\nout of luck$"):
        train_all(jobs, 2, trainings.start)
    assert trainings.begun == ["bad", "good"]
    assert (tmp_path / "good" / "model_best.pth").exists()


def test_runs_that_need_each_other_are_named(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    with pytest.raises(UserError, match="these runs wait for one another: a, b"):
        train_all([trainings.job("a", "b"), trainings.job("b", "a"), trainings.job("c")], 1, trainings.start)
    assert trainings.begun == ["c"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C works, even where a shell has started the tests in the background and switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_every_run_in_a_way_that_lets_it_go_on(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, a=WAIT_FOR_INTERRUPT, b=WAIT_FOR_INTERRUPT)

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*/began"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train_all([trainings.job(name) for name in "abc"], 2, trainings.start)
    thread.join()
    assert trainings.begun == ["a", "b"]
    assert all(process.poll() == 0 for process in trainings.processes)
    assert len(list(tmp_path.glob("*/last.pth"))) == 2


def test_the_cores_are_shared_out() -> None:
    assert threads_each(1) == num_cpus()
    assert threads_each(num_cpus()) == 1
    assert threads_each(100 * num_cpus()) == 1
