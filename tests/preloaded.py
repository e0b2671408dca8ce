"""Processes that need not import torch first: multiprocessing's fork server, with what the entry scripts import.

Importing takes a script several seconds; most tests need only a tenth of one. The server computes nothing itself. It
starts with the first process and ends with the tests.
"""

import logging
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "evaluator")


def preloaded_context() -> ForkServerContext:
    """Starts processes that have imported the scripts; warnings are errors in them, and GPUs hidden."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SCRIPTS, "pytest"])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setenv("PYTHONWARNINGS", "error")
        environment.setenv("CUDA_VISIBLE_DEVICES", "")
        forkserver.ensure_running()
    return context


class PreloadedScript:
    """`python -W error SCRIPT ARGUMENTS` in a preloaded process; the part of `subprocess.Popen` that tests need.

    Args:
        command: the script's file and its arguments.
        folder: where it runs.
        environment: all its variables.
        stdout: the file to append its output to.
        stderr: the file to append its messages to.
        processes: further arguments of each process. Several are joined as torchrun joins them.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: dict[str, str],
        stdout: Path,
        stderr: Path,
        processes: Sequence[Sequence[str]] = ((),),
    ) -> None:
        self.args = [*command]
        environments = [environment] if len(processes) == 1 else _of_ranks(environment, len(processes))
        self._processes = [
            preloaded_context().Process(
                target=_run, args=([*command, *more], str(folder), variables, [str(stdout), str(stderr)])
            )
            for more, variables in zip(processes, environments, strict=True)
        ]
        for process in self._processes:
            process.start()

    @property
    def pid(self) -> int:
        """That of the first process."""
        assert self._processes[0].pid is not None
        return self._processes[0].pid

    @property
    def returncode(self) -> int | None:
        """Negative for a signal's number, None while it runs; of several processes the first that is not 0."""
        codes = [process.exitcode for process in self._processes]
        if None in codes:
            return None
        return next((code for code in codes if code), 0)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        start = time.monotonic()
        for process in self._processes:
            process.join(None if timeout is None else max(0.0, start + timeout - time.monotonic()))
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To each of the processes."""
        for process in self._processes:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _of_ranks(environment: dict[str, str], number: int) -> list[dict[str, str]]:
    """With the variables that torchrun sets."""
    with socket.create_server(("localhost", 0)) as free:
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    return [{**environment, **meeting, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def _run(command: list[str], folder: str, environment: dict[str, str], outputs: list[str]) -> None:
    """Become a process of the script, with an environment, folder, arguments and output of its own."""
    for number, path in enumerate(outputs, start=1):
        with Path(path).open("a") as output:
            os.dup2(output.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = command
    sys.orig_argv[1:] = ["-W", "error", *command]
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without taking torch's modules apart, which takes a second.
    os._exit(code)
