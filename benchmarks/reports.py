"""Files of dated results."""

from pathlib import Path

from utils.files import write_text


def append(path: Path, report: str) -> None:
    """Add a report to those a file has, after an empty line."""
    before = path.read_text(encoding="utf-8") + "\n" if path.exists() else ""
    write_text(path, before + report)
