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
    """A temporary path beside `path` to write to; on success it takes the place of `path`, else it is removed.

    Several threads and processes may write at once. Those that write the same file have a temporary path each; the
    last to end stays.

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
        # Where even this fails, as on a disk that has become read-only, the reason above is what counts.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def expand_user(path: str | Path) -> Path:
    """The path with its ~ expanded; the ~ of an unknown user stays, so that no such file is found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 pathlib's raises


def temporary_path(path: Path) -> Path:
    """A new name beside `path` for what is to become it; `remove_leftovers` knows it again."""
    # The number alone is no proof: on a disk that machines or containers share, another process may have it too.
    return path.with_name(f".{path.name}.unfinished-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path, target: str = "") -> list[Path]:
    """Remove the files and folders that processes left under temporary names when they were killed.

    Only for who holds the lock under which these names are used, as a process that still writes would lose its work.

    Args:
        target: the name of what was to be made; "" for all names.

    Returns:
        What was removed, sorted. What cannot be removed is told, and stays.
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
    # A child process that outlived its parent may still write there: under another name the folder gets nothing more.
    match = _TEMPORARY.fullmatch(path.name)
    assert match is not None
    shutil.rmtree(path.replace(temporary_path(path.with_name(match["target"]))))


def _to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk; otherwise a power cut may leave a new name on an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step; raises like `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON that people can read; raises like `atomic_path`."""
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
