"""Reads a data set that was packed into one LMDB file.

An image in it has the path X.lmdb/its/path.jpg, as if the file were a folder, so whoever carries samples about need
not know where they lie.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from data.lmdb_format import ABOUT, FORMAT, IMAGES, SAMPLES, SUFFIX, image_key, sample_key, unseal
from data.lmdb_index import why_unsafe
from data.samples import Dataset, Sample
from utils.errors import DataError, ParamsError

PACK_ANEW = "pack the data set anew with train.py --operation build_lmdb"


class About(NamedTuple):
    """What an LMDB file says of itself."""

    layout: str
    """Layout of the folder that was packed."""
    test_list: str
    """The `test_list` it was packed with."""
    num_samples: dict[str, int]
    """Of each split."""


class OpenLmdb(NamedTuple):
    """An LMDB file open for reading, with its two databases."""

    environment: lmdb.Environment
    samples: Any
    images: Any
    about: About
    stamp: tuple[int, int]
    """Size and time of the last change when it was opened."""


class OpenFiles:
    """The LMDB files that are open, each once in a process, as LMDB demands.

    A forked process must not use what its parent has opened: it closes that and opens the files anew. Threads share.
    """

    def __init__(self) -> None:
        self._of_process: dict[int, tuple[threading.Lock, dict[tuple[int, int], OpenLmdb]]] = {}

    def get(self, path: Path) -> OpenLmdb:
        """The file, opened and checked when it is asked for first.

        Raises:
            DataError: it is missing, cut short, of another program, or of another format.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {PACK_ANEW}") from error
        # By inode, since LMDB counts two names of one file as opening it twice.
        identity, stamp = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        # A lock per process: one that another thread held while this process was forked would stay locked here.
        lock, files = self._of_process.setdefault(os.getpid(), (threading.Lock(), {}))
        found = files.get(identity)
        if found is not None and found.stamp == stamp:
            return found
        with lock:
            self._close_inherited()
            found = files.get(identity)
            if found is None or found.stamp != stamp:
                if found is not None:
                    files.pop(identity).environment.close()
                files[identity] = found = _open(path, stamp)
        return found

    def _close_inherited(self) -> None:
        for process in [process for process in self._of_process if process != os.getpid()]:
            for inherited in self._of_process.pop(process)[1].values():
                inherited.environment.close()


OPEN_FILES = OpenFiles()
"""The one thing in this package that outlives a call: reading an image takes its path and nothing else."""


def read_about(path: Path) -> About:
    """What an LMDB file says of itself; raises as `OpenFiles.get`."""
    return OPEN_FILES.get(path).about


def read_lmdb(path: Path, layout: str = "auto", test_list: str = "") -> Dataset:
    """The data set in an LMDB file, as it was when it was packed.

    Args:
        layout, test_list: what the settings ask for; "auto" and "" take what there is.

    Raises:
        DataError: the file is missing, damaged, of another program, or of another format.
        ParamsError: another layout or test list was packed.
    """
    opened = OPEN_FILES.get(path)
    for key, wanted, packed in (
        ("data_layout", layout if layout != "auto" else "", opened.about.layout),
        ("test_list", test_list, opened.about.test_list),
    ):
        if wanted and wanted != packed:
            default = '"auto"' if key == "data_layout" else '""'
            raise ParamsError(
                f'{key}: "{wanted}" is wanted, but {path} was packed with "{packed}"; set {default}, or {PACK_ANEW}'
            )
    splits: dict[str, list[Sample]] = {split: [] for split in Dataset._fields}
    try:
        with opened.environment.begin(db=opened.samples) as transaction:
            for number, (key, record) in enumerate(transaction.cursor()):
                content = unseal(key, record)
                if content is None or key != sample_key(number):
                    raise DataError(f"{path}: damaged: sample {number} is not what was written; {PACK_ANEW}")
                split, sample = _sample(path, content)
                splits[split].append(sample)
    except lmdb.Error as error:
        raise DataError(f"{path}: damaged: its samples cannot be read ({error}); {PACK_ANEW}") from error
    found = {split: len(samples) for split, samples in splits.items()}
    if found != opened.about.num_samples:
        raise DataError(f"{path}: damaged: holds the samples {found}, not {opened.about.num_samples}; {PACK_ANEW}")
    return Dataset(**splits)


def split_path(path: Path) -> tuple[Path, str] | None:
    """The LMDB file and the path in it that a sample's path is made of; None for a path of the file system."""
    text = path.as_posix()
    end = text.find(f"{SUFFIX}/")  # nearly always there is none, so nothing is asked of the file system
    while end >= 0:
        end += len(SUFFIX)
        if (file := Path(text[:end])).is_file():
            return file, text[end + 1 :]
        end = text.find(f"{SUFFIX}/", end)
    return None


def read_image(path: Path, relative: str) -> bytes:
    """The bytes of one image file.

    Raises:
        DataError: the file cannot be read, has no such image, or its record is damaged.
    """
    opened = OPEN_FILES.get(path)
    key = image_key(relative)
    try:
        with opened.environment.begin(db=opened.images, buffers=True) as transaction:
            record = transaction.get(key)
            content = None if record is None else unseal(key, record)
    except lmdb.Error as error:
        raise DataError(f"{path / relative}: this record cannot be read ({error}); {PACK_ANEW}") from error
    if record is None:
        raise DataError(f"{path / relative}: no such image in this LMDB")
    if content is None:
        raise DataError(f"{path / relative}: this record of the LMDB is damaged; {PACK_ANEW}")
    return content


def has_image(path: Path, relative: str) -> bool:
    """Whether there is such an image; raises as `OpenFiles.get`."""
    opened = OPEN_FILES.get(path)
    with opened.environment.begin(db=opened.images, buffers=True) as transaction:
        return transaction.get(image_key(relative)) is not None


def _open(path: Path, stamp: tuple[int, int]) -> OpenLmdb:
    if problem := why_unsafe(path):
        raise DataError(f"{path}: {problem}; {PACK_ANEW}")
    try:
        # Read-only and without locks it works on any disk; without read-ahead, a random order reads what it needs.
        environment = lmdb.open(
            os.fsencode(path), subdir=False, readonly=True, lock=False, readahead=False, create=False, max_dbs=2
        )
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); {PACK_ANEW}") from error
    try:
        about = _about(path, environment)
        samples, images = (environment.open_db(name, create=False) for name in (SAMPLES, IMAGES))
    except BaseException:
        environment.close()
        raise
    return OpenLmdb(environment, samples, images, about, stamp)


def _about(path: Path, environment: lmdb.Environment) -> About:
    with environment.begin() as transaction:
        content = unseal(ABOUT, transaction.get(ABOUT, b""))
    assert content is not None, "the seal of the index covers this record"
    fields = json.loads(content)
    if (version := fields.pop("format")) != FORMAT:
        raise DataError(f"{path}: format {version}; this version reads format {FORMAT}; {PACK_ANEW}")
    return About(**fields)


def _sample(path: Path, content: bytes) -> tuple[str, Sample]:
    """A split's name, and one sample of it."""
    fields = json.loads(content)
    relative = fields["path"]
    if relative.startswith("/") or ".." in relative.split("/"):
        # Such a path would be read from the disk, whoever made the file.
        raise DataError(f"{path}: {relative} leads out of the LMDB; {PACK_ANEW}")
    return fields["split"], Sample(path / relative, fields["pid"], fields["camid"])
