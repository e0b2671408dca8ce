"""Files that are written completely or not at all, and archives that are read only if undamaged."""

import json
import logging
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import DataError, first_line, with_advice

_TEMPORARY = re.compile(r"\.(?P<target>.+)\.unfinished-\d+-[0-9a-f]{8}\.tmp", re.DOTALL)

ZIP_START = b"PK\3\4"
"""The first bytes of a zip archive, such as a checkpoint or a feature file."""
_FOLDER = 0x10
"""Attribute of a zip entry that is a folder."""
_END_SIZE, _MANY = 22, 0xFFFF
"""Bytes of the record that ends an archive; the number of entries in it if there are more than it can say."""

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it replaces `path`, otherwise it is removed.

    Several threads and processes may write the same file at once, each with its own temporary path; the last one stays.

    Raises:
        DataError: the folder is missing or may not be written, or the disk is full.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {with_advice(error)}") from error
    finally:
        # If this fails too, as on a read-only disk, the error above says why.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def expand_user(path: str | Path) -> Path:
    """The path with its ~ expanded; the ~ of an unknown user stays, so that no such file is found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 pathlib's raises


def temporary_path(path: Path) -> Path:
    """A new temporary name beside `path`, which `remove_leftovers` recognises."""
    # Machines and containers that share a disk may use the same process ids.
    return path.with_name(f".{path.name}.unfinished-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path, target: str = "") -> list[Path]:
    """Remove temporary files and folders of processes that were killed.

    Call it only with the lock under which they are written: a process that still writes would lose its work.

    Args:
        target: the name of the final file; "" for all.

    Returns:
        The paths removed, sorted. Paths that cannot be removed are logged.
    """
    removed = []
    for path in sorted(folder.iterdir()):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or target not in ("", match["target"]):
            continue
        try:
            _remove(path)
        except OSError as error:
            logger.warning("%s: left by a process that was killed; cannot be removed: %s", path, error.strerror)
        else:
            removed.append(path)
    return removed


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    # A child process that outlived its parent may still write into the folder: rename it first.
    match = _TEMPORARY.fullmatch(path.name)
    assert match is not None
    shutil.rmtree(path.replace(temporary_path(path.with_name(match["target"]))))


def _to_disk(path: Path) -> None:
    """Wait until the content of a file is on disk; otherwise a power failure may leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; raises like `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; raises like `atomic_path`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def check_archive(path: Path, file: BinaryIO) -> None:
    """Compare every entry of a zip archive to its checksum; reads the whole file.

    Args:
        path: the file's name in messages.

    Raises:
        OSError: the file cannot be read.
        DataError: it is damaged.
    """
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        bad = archive.testzip()
        file.seek(-_END_SIZE - len(archive.comment), os.SEEK_END)
        number = int.from_bytes(file.read(_END_SIZE)[10:12], "little")
    except OSError:
        raise
    # zipfile raises errors of many types for archives that it cannot read.
    except Exception as error:
        raise DataError(f"{path}: damaged: {first_line(error)}; take another copy of it, or make it anew") from error
    # The directory has no checksum: a changed bit may hide an entry, or mark it as a folder, whose content torch skips.
    if bad is None and number in (len(entries), _MANY) and not any(entry.external_attr & _FOLDER for entry in entries):
        return
    reason = "its directory is not as it was written" if bad is None else f"its entry {bad!a} does not fit its checksum"
    raise DataError(f"{path}: damaged: {reason}; take another copy of it, or make it anew")
