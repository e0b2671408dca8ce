"""Runs the entry scripts in processes that need not import torch first, as a process of its own: `ScriptServer`.

Importing takes a script seconds; most of the mistakes that a user can make, it finds within a tenth of one. The server
imports once what the scripts import and computes nothing. For each script it makes a copy of itself (fork), which then
runs the script's file as Python does: with an environment, folder, arguments, output and exit code of its own.
"""

import importlib
import json
import logging
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("train", "evaluator")


class ScriptServer:
    """The server's process, as the tests see it; one script at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._end()

    def run(
        self,
        script: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        folder: Path,
        output: Path,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of ROOT to the end in `folder`; what it prints is kept in the folder `output`.

        Raises:
            subprocess.TimeoutExpired: it was not done in time.
            RuntimeError: the server has ended; its own words are on stderr.
        """
        outputs = [output / "stdout", output / "stderr"]
        for path in outputs:
            path.write_text("")
        request = {
            "command": [str(ROOT / script), *arguments],
            "environment": environment,
            "folder": str(folder),
            "outputs": [str(path) for path in outputs],
        }
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], timeout)[0]:
            self._end()
            raise subprocess.TimeoutExpired(request["command"], timeout, *(path.read_text() for path in outputs))
        if not (answer := process.stdout.readline()):
            self._end()
            raise RuntimeError(f"the server of {', '.join(SCRIPTS)} has ended, exit code {process.returncode}")
        stdout, stderr = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess(request["command"], json.loads(answer), stdout, stderr)

    def _start(self) -> subprocess.Popen[str]:
        """Warnings are errors in it, and so in the scripts."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__).resolve())],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # With it ends the script that it waits for.
            start_new_session=True,
        )

    def _end(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


def serve() -> None:
    """Read a request a line and answer with its exit code, negative for a signal's number."""
    # Where Python has the folder of the script it runs.
    sys.path[0] = str(ROOT)
    for name in SCRIPTS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            code = run_script(**request)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            # Without taking torch's modules apart, which takes a second.
            os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run_script(command: list[str], environment: dict[str, str], folder: str, outputs: list[str]) -> int:
    """Become a process of the script; returns its exit code."""
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    for number, path in enumerate(outputs, start=1):
        with Path(path).open("w") as output:
            os.dup2(output.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    sys.orig_argv[1:] = ["-W", "error", *command]
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
