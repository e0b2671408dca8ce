"""Log lines: on the screen beside a progress bar, and in the run's train_log."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from utils.torchrun import speaks


class _ScreenHandler(logging.Handler):
    """Writes to stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to_screen() -> None:
    """Show what the program says of itself on stderr; called once, by an entry script.

    Of several processes the first speaks; the others tell of errors only.
    """
    root = logging.getLogger()
    root.setLevel(logging.INFO if speaks() else logging.ERROR)
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)


def bars_hidden() -> bool | None:
    """What tqdm's `disable` should be: None, hidden where there is no terminal; True where another process speaks."""
    return None if speaks() else True


def log_to_file(path: Path) -> None:
    """Append every log line, with its time, to a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
