"""Log lines: on the screen beside a progress bar, and in the run's train_log."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm


class _ScreenHandler(logging.Handler):
    """Writes to stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to_screen() -> None:
    """Show what the program says of itself on stderr; called once, by an entry script."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)


def log_to_file(path: Path) -> None:
    """Append every log line, with its time, to a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
