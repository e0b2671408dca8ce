"""Log lines: on the screen beside a progress bar, and in the run's train_log. Neither ever stops a training."""

import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from utils.errors import with_advice
from utils.process import is_rank_zero


class _ScreenHandler(logging.Handler):
    """Writes to stderr above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _show(self.format(record))


class _FileHandler(logging.FileHandler):
    """Appends to a file. On a full disk lines are lost, which the screen says once, until there is room again."""

    def __init__(self, path: Path) -> None:
        # The file is opened with the first line. A file name in a line may hold bytes that are no text.
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._is_failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            super().emit(record)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                # Past the logging: a log line about a log that fails would not end.
                _show(f"lines of {self.baseFilename} are not written: {with_advice(error)}; training continues")
            self._is_failing = True
            # The next line opens the file again.
            if self.stream is not None:
                with suppress(OSError):
                    self.stream.close()
                self.stream = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        """Hand an error of the disk to `emit`."""
        if isinstance(error := sys.exc_info()[1], OSError):
            raise error
        super().handleError(record)


def _show(text: str) -> None:
    """Write lines to stderr, if possible."""
    # The terminal or pipe may be closed or the disk full; train_log has the lines too.
    # tqdm's own locking fails if a signal interrupts it: it releases what it has not acquired yet.
    with suppress(OSError, ValueError), tqdm.get_lock():
        tqdm.write(text, file=sys.stderr, nolock=True)


def log_to_screen() -> None:
    """Show log lines on stderr; called once, by an entry script.

    Of several processes rank 0 shows everything, the others only errors. Warnings of Pillow, which name no file, are
    not shown: an image is decoded, or refused with its name.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if sys.stderr is None:
        # Closed by the parent. A progress bar needs it, and the next file opened must not take its descriptor.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 as long as the process lives
    root = logging.getLogger()
    root.setLevel(logging.INFO if is_rank_zero() else logging.ERROR)
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)


def bars_hidden() -> bool | None:
    """tqdm's `disable`: None, which hides it without a terminal; True on other ranks than 0."""
    return None if is_rank_zero() else True


def log_to_file(path: Path) -> None:
    """Append every log line, with its time, to a file."""
    handler = _FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
