"""Log lines: on the screen beside a progress bar, and in the run's train_log. Neither ever stops a training."""

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from tqdm import tqdm

from utils.errors import with_advice
from utils.torchrun import speaks

SECONDS_BETWEEN_TRIES = 5.0


class Outage:
    """A time in which something cannot be written: told once, tried again now and then, told again when it is over.

    Args:
        subject: what is or is not written, in the plural: "curves".
        tell: shows one line to the user.
    """

    def __init__(self, subject: str, tell: Callable[[str], None]) -> None:
        self.subject = subject
        self.missing = 0
        """How much could not be written since it began."""
        self._tell = tell
        self._is_on = False
        self._next_try = 0.0

    def is_on(self) -> bool:
        """Whether the last try failed."""
        return self._is_on

    def lets_try(self) -> bool:
        """Whether to write now; a full disk is not asked at every line."""
        return not self._is_on or time.monotonic() >= self._next_try

    def failed(self, error: OSError) -> None:
        """A try failed; the first time it is told, with what to do."""
        if not self._is_on:
            self._tell(f"{self.subject} are not written: {with_advice(error)}: training goes on")
        self._is_on, self._next_try = True, time.monotonic() + SECONDS_BETWEEN_TRIES

    def succeeded(self) -> None:
        """A try succeeded; after failures it is told."""
        if self._is_on:
            self._tell(f"{self.subject} are written again; missing: {self.missing}")
        self._is_on, self.missing = False, 0


def write_all(file: FileIO, content: bytes) -> None:
    """Write to an unbuffered file, which may take a part only: a disk takes what it has room for, then refuses."""
    while content:
        content = content[file.write(content) :]


class _ScreenHandler(logging.Handler):
    """Writes to stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        _show(self.format(record))


class _FileHandler(logging.Handler):
    """Appends to a file as long as that is possible.

    What it says of itself goes to the screen past the logging: a log of a log that fails would not end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path.absolute()
        self.outage = Outage(f"lines of {path}", _show)
        self._file: FileIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if not self.outage.lets_try():
            self.outage.missing += 1
            return
        self._append(self.format(record))

    def close(self) -> None:
        """Close the file, after a last try to say what is missing from it."""
        self.acquire()
        try:
            if self.outage.is_on():
                self._append()
            self._close_file()
        finally:
            self.release()
        super().close()

    def _append(self, *lines: str) -> None:
        if missing := self.outage.missing:
            message = f"lines that could not be written and are missing here: {missing}"
            notice = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)
            lines = (self.format(notice), *lines)
        try:
            # The file of a folder that was removed takes lines, and nobody will read them.
            if self._file is None or os.fstat(self._file.fileno()).st_nlink == 0:
                self._close_file()
                self._file = _open_to_append(self.path)
            # A file name may hold bytes that are no text.
            write_all(self._file, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        except OSError as error:
            self._close_file()
            self.outage.missing += 1
            self.outage.failed(error)
        else:
            self.outage.succeeded()

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _open_to_append(path: Path) -> FileIO:
    """Open a file for more lines; one that was cut in the middle gets its line's end."""
    file = path.open("ab+", buffering=0)
    try:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                write_all(file, b"\n")
    except OSError:
        file.close()
        raise
    return file


def _show(text: str) -> None:
    """One or more lines on stderr, if there is anybody to read them."""
    # The terminal is gone, the reader of a pipe has left, or the disk of a file is full: train_log has the lines too.
    with suppress(OSError, ValueError):
        tqdm.write(text, file=sys.stderr)


def log_to_screen() -> None:
    """Show what the program says of itself on stderr; called once, by an entry script.

    Of several processes the first speaks; the others tell of errors only.
    """
    if sys.stderr is None:
        # It was closed by who started us. A progress bar needs one, and what is opened next must not take its number.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 as long as the process lives
    root = logging.getLogger()
    root.setLevel(logging.INFO if speaks() else logging.ERROR)
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)


def bars_hidden() -> bool | None:
    """What tqdm's `disable` should be: None, hidden where there is no terminal; True where another process speaks."""
    return None if speaks() else True


def log_to_file(path: Path) -> None:
    """Append every log line, with its time, to a file as well. Lines that cannot be written are left out."""
    handler = _FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
