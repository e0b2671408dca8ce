"""Runs of train.py, several at once, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tqdm import tqdm

from config.load import OPERATION
from utils.checkpoint import is_finished
from utils.cli import SUCCESS
from utils.errors import DataError, UserError
from utils.process import num_cpus

ROOT = Path(__file__).resolve().parent.parent
_MESSAGE_LINES = 20


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    """Of the run, a folder in `working_dir`."""
    params: Path
    """The params file."""
    settings: tuple[str, ...]
    """What --set adds to it; with `working_dir`."""
    working_dir: Path
    needs: frozenset[str] = field(default=frozenset())
    """Names of the jobs whose models this one starts from or learns from."""
    operation: str = "start_train"
    """That begins it."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.working_dir / self.name


@dataclass(frozen=True)
class _Process:
    job: Job
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    start: float


def start_training(job: Job, threads: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Begin a run, or go on with one that was stopped."""
    command = ["--operation", job.operation, "--config_path", str(job.params), "--set", *job.settings]
    if (job.run / "params.json").exists():
        command = ["--operation", "resume_train", "--set", f"working_dir={job.working_dir}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command, "--sub_working_dir", job.name],
        stdout=output,
        stderr=output,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        # Ctrl-C comes here only, and is passed on once.
        start_new_session=True,
    )


def train_all(
    jobs: Sequence[Job], at_once: int, start: Callable[[Job, int, IO[bytes]], subprocess.Popen[bytes]] = start_training
) -> None:
    """Train what is not finished yet, in order, but none before those it needs; what was interrupted goes on.

    Args:
        jobs: their names differ.
        at_once: processes at a time.
        start: begins a job on so many threads, its output to a file.

    Raises:
        UserError: runs failed, named with their last words, or wait for one another. After a failure nothing new
            begins, but what is under way is finished.
    """
    # Shares out the cores: more threads than cores would slow every one of the runs down.
    threads = threads_each(at_once)
    waiting = [job for job in jobs if not is_finished(job.run)]
    running: list[_Process] = []
    failures: list[str] = []
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="trainings", unit="run", disable=None) as bar:
        try:
            while running or (waiting and not failures):
                unfinished = {job.name for job in waiting} | {process.job.name for process in running}
                ready = [job for job in waiting if not job.needs & unfinished]
                if not (ready or running):
                    raise UserError(f"these runs wait for one another: {', '.join(job.name for job in waiting)}")
                for job in () if failures else ready[: at_once - len(running)]:
                    waiting.remove(job)
                    output = tempfile.TemporaryFile()  # noqa: SIM115
                    running.append(_Process(job, start(job, threads, output), output, time.monotonic()))
                time.sleep(0.05)
                for ended in [each for each in running if each.process.poll() is not None]:
                    running.remove(ended)
                    failures += _failure(ended)
                    bar.update()
        finally:
            # Reached with processes only on an interrupt: each saves what it takes to go on.
            _stop(running)
    if failures:
        raise UserError("\n".join(failures))


def threads_each(at_once: int) -> int:
    """Threads of each of so many processes."""
    return max(1, num_cpus() // at_once)


def check_same_params(job: Job, wanted: Mapping[str, object]) -> None:
    """A run that lies there already is taken only as an answer to the same question.

    Args:
        job: whose run it is.
        wanted: its resolved params.

    Raises:
        DataError: it was begun with other params, or by another operation.
    """
    path = job.run / "params.json"
    if path.exists() and json.loads(path.read_text()) != {OPERATION: job.operation, **wanted}:
        raise DataError(f"{job.run}: this run was trained with other params; remove it or choose another --working_dir")


def _failure(ended: _Process) -> list[str]:
    """What there is to say of a process that has ended: nothing, if all went well."""
    elapsed = time.monotonic() - ended.start
    with ended.output:
        code = ended.process.returncode
        tqdm.write(f"{ended.job.name}: {elapsed:.0f} s" + ("" if code == SUCCESS else ", failed"), file=sys.stderr)
        if code == SUCCESS:
            return []
        ended.output.seek(0)
        lines = ended.output.read().decode(errors="replace").strip().splitlines()
    return [f"{ended.job.name}: train.py failed with exit code {code}", *lines[-_MESSAGE_LINES:]]


def _stop(running: Sequence[_Process]) -> None:
    """Interrupt processes and wait until they are gone."""
    for each in running:
        each.process.send_signal(signal.SIGINT)
    for each in running:
        each.process.wait()
        each.output.close()
