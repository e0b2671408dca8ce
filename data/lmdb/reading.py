"""Reads a data set and its images from an LMDB file."""

import json
import os
import threading
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


class _OpenFiles:
    """The open LMDB files of this process, by device and inode: LMDB must not open a file twice in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: dict[tuple[int, int], OpenLmdb] = {}

    def get(self, path: Path) -> OpenLmdb:
        """The open file; opened on first use, and again if it was replaced."""
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {PACK_AGAIN}") from error
        identity, stamp = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        with self.lock:
            opened = self.files.get(identity)
            if opened is None or opened.stamp != stamp:
                if opened is not None:
                    self.files.pop(identity).environment.close()
                opened = self.files[identity] = _open(path, stamp)
            return opened

    def reset_after_fork(self) -> None:
        """Close the files in a forked child, which must not use the environments of its parent."""
        self.lock = threading.Lock()
        for opened in self.files.values():
            opened.environment.close()
        self.files.clear()


_OPEN_FILES = _OpenFiles()
"""Module-level state, since LMDB has one environment per file and process and an image is read by its path alone."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OPEN_FILES.reset_after_fork)


def read_about(path: Path) -> About:
    """The description of an LMDB file.

    Raises:
        DataError: the file is missing, truncated, damaged, not written by `build_lmdb`, or of another format.
    """
    return _OPEN_FILES.get(path).about


def read_lmdb(path: Path, layout: str = "auto", test_list: str = "") -> Dataset:
    """The data set in an LMDB file, as it was packed.

    Args:
        layout, test_list: the user's settings; "auto" and "" accept what was packed.

    Raises:
        DataError: as `read_about`, or a sample is damaged.
        ParamsError: another layout or test list was packed.
    """
    opened = _OPEN_FILES.get(path)
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
                split, sample = _sample(path, content)
                splits[split].append(sample)
    except lmdb.Error as error:
        raise DataError(f"{path}: damaged: its samples cannot be read ({error}); {PACK_AGAIN}") from error
    found = {split: len(samples) for split, samples in splits.items()}
    if found != opened.about.num_samples:
        raise DataError(f"{path}: damaged: it holds {found} samples, not {opened.about.num_samples}; {PACK_AGAIN}")
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
    opened = _OPEN_FILES.get(path)
    key = image_key(relative)
    try:
        with opened.environment.begin(db=opened.images, buffers=True) as transaction:
            record = transaction.get(key)
            if record is None:
                raise DataError(f"{path / relative}: no such image in this LMDB")
            content = strip_checksum(key, record)
    except lmdb.Error as error:
        raise DataError(f"{path / relative}: this record cannot be read ({error}); {PACK_AGAIN}") from error
    if content is None:
        raise DataError(f"{path / relative}: this record of the LMDB is damaged; {PACK_AGAIN}")
    return content


def has_image(path: Path, relative: str) -> bool:
    """Whether there is such an image; raises as `read_about`."""
    opened = _OPEN_FILES.get(path)
    with opened.environment.begin(db=opened.images, buffers=True) as transaction:
        return transaction.get(image_key(relative)) is not None


def _open(path: Path, stamp: tuple[int, int]) -> OpenLmdb:
    try:
        # Without a lock file it works on read-only disks; without read-ahead a random order reads only what it needs.
        environment = lmdb.open(
            os.fsencode(path), subdir=False, readonly=True, lock=False, readahead=False, create=False, max_dbs=2
        )
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be read as LMDB ({error}); {PACK_AGAIN}") from error
    try:
        num_pages = environment.info()["last_pgno"] + 1
        if stamp[0] < num_pages * environment.stat()["psize"]:  # LMDB itself would read beyond the end, and crash
            raise DataError(f"{path}: truncated, perhaps an incomplete copy; {PACK_AGAIN}")
        about = _read_about(path, environment)
        samples, images = (environment.open_db(name, create=False) for name in (SAMPLES, IMAGES))
    except lmdb.Error as error:
        environment.close()
        raise DataError(f"{path}: damaged ({error}); {PACK_AGAIN}") from error
    except DataError:
        environment.close()
        raise
    return OpenLmdb(environment, samples, images, about, stamp)


def _read_about(path: Path, environment: lmdb.Environment) -> About:
    with environment.begin() as transaction:
        content = strip_checksum(ABOUT, transaction.get(ABOUT, b""))
    if content is None:
        raise DataError(f"{path}: damaged, or not a data set packed by build_lmdb; {PACK_AGAIN}")
    fields = json.loads(content)
    if (version := fields.pop("format")) != FORMAT:
        raise DataError(f"{path}: format {version}; this version reads format {FORMAT}; {PACK_AGAIN}")
    return About(**fields)


def _sample(path: Path, content: bytes) -> tuple[str, Sample]:
    """The name of a split, and one sample of it."""
    fields = json.loads(content)
    return fields["split"], Sample(path / fields["path"], fields["pid"], fields["camid"])
