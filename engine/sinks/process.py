"""A logger of another package in a process of its own, which the training never waits for before its end.

The package may print, ask for a password, retry for minutes or crash: nothing of it reaches the training. What it
prints is in LOGGER.log of the run's folder.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f"import sys; sys.path[0] = {str(ROOT)!r}; from engine.sinks.process import serve; serve()"
MAX_WAITING = 10_000
"""Records that wait for a logger; one that is further behind is given up."""
MAX_WAITING_BYTES = 2**28
"""Of images among them."""
OPEN_SECONDS = 30.0
"""How long the end of a training waits for a logger that has not begun, as its server does not answer."""
CLOSE_SECONDS = 600.0
"""How long it waits for one that is sending files."""
NOTICE_SECONDS = 3.0

logger = logging.getLogger(__name__)


class LoggedRun(NamedTuple):
    """What a logger gets of a run."""

    name: str
    folder: Path
    params: dict[str, Any]
    """Nested, plain values."""
    id_file: Path
    """Holds the logger's own id of the run once it has begun; a resumed run goes on with it."""

    @property
    def known_id(self) -> str | None:
        """The id of the run that is resumed; None for a new one."""
        return self.id_file.read_text(encoding="utf-8").strip() if self.id_file.is_file() else None

    @property
    def flat_params(self) -> dict[str, Any]:
        """The params by dotted name."""

        def flat(section: Mapping[str, Any], above: str) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for key, value in section.items():
                found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
            return found

        return flat(self.params, "")

    def begin(self, run_id: str) -> None:
        """Keep the id of the run."""
        self.id_file.write_text(f"{run_id}\n", encoding="utf-8")


class LoggerProcess:
    """The training's end of a logger.

    Args:
        name: of the logger, and of its module in this package.
        folder: of the run.
        params: of the run, as plain values.
    """

    takes_files = True

    def __init__(self, name: str, folder: Path, params: Mapping[str, Any]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self._records: Queue[tuple[str, tuple[Any, ...]]] = Queue(MAX_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        # The packages leave temporary folders behind where their process is killed, or ends at once.
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True)
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, "TMPDIR": self._temporary.name},
                    start_new_session=True,  # Ctrl-C stops the training, which then ends its loggers
                )
        except OSError as error:
            self._end(str(error))
            self._temporary.cleanup()
        self._put(name, LoggedRun(folder.name, folder.resolve(), dict(params), (folder / f"{name}.id").resolve()))
        self._thread = Thread(target=self._feed, name=f"logger {name}", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        self._put("scalars", dict(values), step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""
        with self._records.mutex:
            waiting = sum(args[1].nbytes for method, args in self._records.queue if method == "image")
        if waiting > MAX_WAITING_BYTES and self._process is not None:
            self._end(f"is {waiting / 2**20:.0f} MiB of images behind")
        self._put("image", tag, np.ascontiguousarray(pixels), step)

    def file(self, path: Path) -> None:
        """A file that the finished run leaves."""
        self._put("file", path.resolve())

    def flush(self) -> None:
        """Nothing: the logger saves what it gets as soon as it can."""

    def close(self) -> None:
        """Wait until the logger has sent everything, or for `CLOSE_SECONDS` at most."""
        process = self._process
        if process is None:
            return
        self._put("close")
        if self._process is None:
            return
        try:
            code = process.wait(NOTICE_SECONDS)
        except subprocess.TimeoutExpired:
            has_begun = self._has_begun(process)
            seconds = CLOSE_SECONDS if has_begun else OPEN_SECONDS
            what = "to send everything" if has_begun else "whose server does not answer"
            logger.info("waiting up to %.0f s for %s %s", seconds, self.name, what)
            code = self._wait(process, seconds)
        if code != 0:
            self._end("did not end in time" if code is None else self._last_line())
        self._let_go(process)

    def _put(self, method: str, *args: Any) -> None:
        """Hand a record over; ends the logger if its process has ended or is too far behind."""
        if (process := self._process) is None:
            return
        try:
            if process.poll() is not None:
                self._end(self._last_line())
            else:
                self._records.put_nowait((method, args))
        except Full:
            self._end(f"is {MAX_WAITING} records behind")

    def _feed(self) -> None:
        """Write the records to the process, in a thread that may block."""
        process = self._process
        if process is None or process.stdin is None:
            return
        # A process that has ended is noticed by `_put`.
        with suppress(OSError, ValueError):
            method = ""
            while method != "close":
                with suppress(Empty):
                    method, args = self._records.get(timeout=1.0)
                    pickle.dump((method, args), process.stdin)
                    process.stdin.flush()
                if process.poll() is not None:
                    return

    def _has_begun(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return bool(process.stdout.read(1))

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> int | None:
        """The exit code of the process; None if it had to be killed."""
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _last_line(self) -> str:
        """The last line that the logger has printed, mostly an error."""
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "ended")
        return "ended"

    def _end(self, why: str) -> None:
        """Warn once, and give the logger up."""
        logger.warning("logging to %s has ended: %s; training continues, see %s", self.name, why, self.log)
        if (process := self._process) is not None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._let_go(process)
        with self._records.mutex:
            self._records.queue.clear()

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError, ValueError):
                    pipe.close()
        self._temporary.cleanup()


def serve() -> None:
    """The logger's end: open the sink that the first record names, and hand it the others until they end."""
    # Nothing that the package reads or prints may touch the records.
    records, begun = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    code = 1
    try:
        name, (run,) = pickle.load(records)
        sink = import_module(f"engine.sinks.{name}").open_sink(run)
        # A training that was killed does not read it, and its records end without a last one.
        with suppress(OSError):
            os.write(begun, b"1")
        with suppress(EOFError):
            while (record := pickle.load(records))[0] != "close":
                method, args = record
                getattr(sink, method)(*args)
        sink.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    # At once: what the package does at the end of a process may wait for its server again.
    sys.stderr.flush()
    os._exit(code)
