"""Runs of train.py, each in a process of its own: several at once, or one that is measured."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from config.load import OPERATION, load_params
from evaluate.core.plugins import plugin_options
from utils.checkpoint import is_finished
from utils.errors import DataError, UserError
from utils.process import num_cpus

ROOT = Path(__file__).resolve().parent.parent
START_TRAIN = "start_train"
_ERROR = re.compile(r"[\w.]*(Error|Exception|Failed|Interrupt)\b")


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: Of the run, a folder in `working_dir`.
        params: The params file.
        settings: What --set adds to it, `working_dir` included.
        needs: Names of the jobs whose models this one starts or learns from.
    """

    name: str
    params: Path
    settings: tuple[str, ...]
    working_dir: Path
    needs: frozenset[str] = frozenset()

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.working_dir / self.name

    @property
    def command(self) -> list[str]:
        """Start the run, or resume one that was interrupted."""
        arguments = ["--operation", START_TRAIN, "--config_path", str(self.params), "--set", *self.settings]
        if (self.run / "params.json").exists():
            arguments = ["--operation", "resume_train", "--set", f"working_dir={self.working_dir}"]
        return [sys.executable, str(ROOT / "train.py"), *arguments, "--sub_working_dir", self.name]

    def measure(self, device: str, watch: Callable[[], None] = lambda: None) -> "Finished":
        """Train and wait for the end; arguments and errors as of `run_process`."""
        return run_process(self.command[1:], device, watch)

    def check(self) -> None:
        """Refuse a run of the same name with other params.

        Raises:
            DataError: the run's folder holds one.
        """
        path = self.run / "params.json"
        if not path.exists():
            return
        wanted = {OPERATION: START_TRAIN, **resolved(self.params, self.settings)}
        if json.loads(path.read_text()) != wanted:
            raise DataError(f"{self.run}: trained with other params; remove it or choose another --working_dir")

    def records(self) -> list[dict[str, Any]]:
        """The run's metrics.jsonl."""
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]


def train_all(jobs: Sequence[Job], at_once: int = 1) -> None:
    """Train the jobs that are not finished, `at_once` runs at a time, each after those it needs.

    After a failure no further run starts; those under way are finished. On an interrupt all are interrupted, and
    the same call resumes them later.

    Raises:
        UserError: a run failed, or runs need each other; `check` raises as well.
    """
    for job in jobs:
        job.check()
    waiting = [job for job in jobs if not is_finished(job.run)]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    try:
        while running or (waiting and not failed):
            unfinished = {job.name for job in (*waiting, *running)}
            ready = [job for job in waiting if not job.needs & unfinished]
            if not (ready or running):
                raise UserError(f"these runs need each other: {', '.join(job.name for job in waiting)}")
            for job in () if failed else ready[: at_once - len(running)]:
                waiting.remove(job)
                running[job] = start(job, at_once)
            time.sleep(0.05)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                code = running.pop(job).returncode
                print(f"{job.name}: {'failed' if code else 'finished'}", file=sys.stderr, flush=True)
                failed += [f"{job.name} (exit code {code})"] if code else []
    finally:
        for process in running.values():  # only after an interrupt
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
    if failed:
        raise UserError(f"train.py failed: {', '.join(failed)}; its output stands above")


def start(job: Job, at_once: int) -> subprocess.Popen[bytes]:
    """Start a run on its share of the cores; its output goes to stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, num_cpus() // at_once))}
    # A session of its own: Ctrl-C reaches this process only, which passes it on once.
    return subprocess.Popen(job.command, stdout=2, env=environment, start_new_session=True)


class Finished(NamedTuple):
    """A Python process that has ended."""

    output: str
    """What it printed."""
    seconds: float
    """From its start to its end."""
    peak_mib: float
    """Its peak of memory; on a GPU what the device had less free meanwhile."""


def run_process(arguments: Sequence[str], device: str, watch: Callable[[], None] = lambda: None) -> Finished:
    """Run Python until it exits; Linux only.

    Args:
        arguments: of Python.
        device: "cpu" hides the GPUs.
        watch: called several times a second meanwhile, and once at the end.

    Raises:
        UserError: it failed; the last line of the message is that of the process, whose messages are shown before.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else None
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    peak, start = 0.0, time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=output, stderr=messages, env=environment
        )
        while process.poll() is None:
            if device == "cuda":
                used = free - torch.cuda.mem_get_info()[0]
            else:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                used = next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
            peak = max(peak, used / 2**20)
            watch()
            time.sleep(0.1)
        seconds = time.monotonic() - start
        watch()
        output.seek(0)
        messages.seek(0)
        if process.returncode:
            text = messages.read()
            print(text, file=sys.stderr)
            command = " ".join(["python", *arguments])
            raise UserError(f"{command}:\nexit code {process.returncode}: {last_line(text)}")
        return Finished(output.read(), seconds, peak)


def last_line(text: str) -> str:
    """The last line that names an error, else the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "")


def resolved(params: Path, settings: Sequence[str]) -> dict[str, Any]:
    """All settings of a params file with overrides, as a run's folder holds them."""
    return load_params(params, settings, plugin_options=plugin_options).params.model_dump(mode="json")
