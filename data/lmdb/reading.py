"""Reads a data set and its images from an LMDB file."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from data.lmdb.format import ABOUT, FORMAT, IMAGES, SAMPLES, SUFFIX, image_key, sample_key, strip_checksum
from data.samples import Dataset, Sample
from utils.errors import DataError, ParamsError

PACK_AGAIN = "pack the data set again with train.py --operation build_lmdb"


class About(NamedTuple):
    """The file's description of itself."""

    layout: str
    """Layout of the folder that was packed."""
    test_list: str
    """The `test_list` it was packed with."""
    num_samples: dict[str, int]
    """Number of samples of each split."""


class OpenLmdb(NamedTuple):
    """An LMDB file open for reading, with its two databases."""

    environment: lmdb.Environment
    samples: Any
    images: Any
    about: About
    stamp: tuple[int, int]
    """Size and modification time when it was opened."""


_OPEN: dict[tuple[int, int], OpenLmdb] = {}
"""Open files by device and inode: LMDB must not open a file twice in one process."""
_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A child may use the files of its parent, which are read-only and without locks, but not a lock that is held.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


def read_about(path: Path) -> About:
    """The description of an LMDB file.

    Raises:
        DataError: the file is missing, truncated, damaged, not written by `build_lmdb`, or of another format.
    """
    return _opened(path).about


def read_lmdb(path: Path, layout: str = "auto", test_list: str = "") -> Dataset:
    """The data set in an LMDB file, as it was packed.

    Args:
        layout, test_list: the user's settings; "auto" and "" accept what was packed.

    Raises:
        DataError: as `read_about`, or a sample is damaged.
        ParamsError: another layout or test list was packed.
    """
    opened = _opened(path)
    for key, wanted, packed, default in (
        ("data_layout", layout.replace("auto", ""), opened.about.layout, '"auto"'),
        ("test_list", test_list, opened.about.test_list, '""'),
    ):
        if wanted and wanted != packed:
            raise ParamsError(
                f'{key}: "{wanted}" is requested, but {path} was packed with "{packed}"; set {default}, or {PACK_AGAIN}'
            )
    splits: dict[str, list[Sample]] = {split: [] for split in Dataset._fields}
    try:
        with opened.environment.begin(db=opened.samples) as transaction:
            for number, (key, record) in enumerate(transaction.cursor()):
                content = strip_checksum(key, record)
                if content is None or key != sample_key(number):
                    raise DataError(f"{path}: damaged: the record of sample {number} is invalid; {PACK_AGAIN}")
                fields = json.loads(content)
                if fields["path"].startswith("/") or ".." in fields["path"].split("/"):
                    raise DataError(f"{path}: {fields['path']} leads out of the LMDB; {PACK_AGAIN}")
                splits[fields["split"]].append(Sample(path / fields["path"], fields["pid"], fields["camid"]))
    except lmdb.Error as error:
        raise DataError(f"{path}: damaged: its samples cannot be read ({error}); {PACK_AGAIN}") from error
    if {split: len(samples) for split, samples in splits.items()} != opened.about.num_samples:
        raise DataError(f"{path}: damaged: samples are missing; {PACK_AGAIN}")
    return Dataset(**splits)


def split_path(path: Path) -> tuple[Path, str] | None:
    """The LMDB file and the path inside it that a sample's path consists of; None for a path of the file system."""
    text = path.as_posix()
    end = text.find(f"{SUFFIX}/")  # usually absent, so the file system is not queried
    while end >= 0:
        end += len(SUFFIX)
        if (file := Path(text[:end])).is_file():
            return file, text[end + 1 :]
        end = text.find(f"{SUFFIX}/", end)
    return None


def read_image(path: Path, relative: str) -> bytes:
    """The bytes of one image file.

    Raises:
        DataError: as `read_about`, or there is no such image, or its record is damaged.
    """
    with _record(path, relative) as record:
        if record is None:
            raise DataError(f"{path / relative}: no such image in this LMDB")
        content = strip_checksum(image_key(relative), record)
    if content is None:
        raise DataError(f"{path / relative}: this record of the LMDB is damaged; {PACK_AGAIN}")
    return content


def has_image(path: Path, relative: str) -> bool:
    """Whether there is such an image, damaged or not.

    Raises:
        DataError: as `read_about`, or LMDB cannot tell.
    """
    with _record(path, relative) as record:
        return record is not None


@contextmanager
def _record(path: Path, relative: str) -> Iterator[memoryview | None]:
    """The record of an image within this block; None if there is no such image."""
    opened = _opened(path)
    try:
        with opened.environment.begin(db=opened.images, buffers=True) as transaction:
            yield transaction.get(image_key(relative))
    except lmdb.Error as error:
        raise DataError(f"{path / relative}: this record cannot be read ({error}); {PACK_AGAIN}") from error


def _opened(path: Path) -> OpenLmdb:
    """The open file; opened on first use, and again if another file took its place."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {PACK_AGAIN}") from error
    identity, stamp = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
    with _LOCK:
        opened = _OPEN.get(identity)
        if opened is None:
            _OPEN[identity] = _open(path, stamp)
        elif opened.stamp[0] != status.st_size:  # rewritten in place
            _OPEN.pop(identity).environment.close()
            _OPEN[identity] = _open(path, stamp)
        elif opened.stamp != stamp:
            # LMDB sees what was written meanwhile, if anything; closing would take the file from threads that read.
            _OPEN[identity] = opened._replace(about=_read_about(path, opened.environment), stamp=stamp)
        return _OPEN[identity]


def _open(path: Path, stamp: tuple[int, int]) -> OpenLmdb:
    environment = None
    try:
        # Without a lock file it works on read-only disks; without read-ahead a random order reads only what it needs.
        environment = lmdb.open(
            os.fsencode(path), subdir=False, readonly=True, lock=False, readahead=False, create=False, max_dbs=2
        )
        num_pages = environment.info()["last_pgno"] + 1
        if stamp[0] < num_pages * environment.stat()["psize"]:  # LMDB itself would read beyond the end, and crash
            raise DataError(f"{path}: truncated, perhaps an incomplete copy; {PACK_AGAIN}")
        about = _read_about(path, environment)
        samples, images = (environment.open_db(name, create=False) for name in (SAMPLES, IMAGES))
        return OpenLmdb(environment, samples, images, about, stamp)
    except (lmdb.Error, DataError) as error:
        if environment is not None:
            environment.close()
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as LMDB ({error}); {PACK_AGAIN}") from error


def _read_about(path: Path, environment: lmdb.Environment) -> About:
    try:
        with environment.begin() as transaction:
            content = strip_checksum(ABOUT, transaction.get(ABOUT, b""))
    except lmdb.Error as error:
        raise DataError(f"{path}: damaged: its description cannot be read ({error}); {PACK_AGAIN}") from error
    if content is None:
        raise DataError(f"{path}: damaged, or not a data set packed by build_lmdb; {PACK_AGAIN}")
    fields = json.loads(content)
    if (version := fields.pop("format")) != FORMAT:
        raise DataError(f"{path}: format {version}; this version reads format {FORMAT}; {PACK_AGAIN}")
    return About(**fields)
