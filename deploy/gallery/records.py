"""The records of a gallery, in one LMDB file, which say what counts.

    _gallery   (no database)  JSON: format, size of the embeddings, model, and a `State`
    items      (database)     id, 8 bytes, big-endian -> `Entry`
    names      (database)     hash of the name -> id
    images     (database)     id -> an encoded crop, where the image lies nowhere else

Every record begins with a checksum of its key and its content. Each change is one transaction, forced to the disk:
whenever a process is killed, the next one finds all of it or nothing.
"""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from data.lmdb.format import add_checksum, image_key, sample_key, strip_checksum, to_json
from deploy.gallery import probe
from deploy.gallery.items import Entry
from utils.errors import DataError
from utils.files import atomic_path

FORMAT = 1
"""Raised with every change that an older version could not read."""
ABOUT = b"_gallery"
ITEMS, NAMES, IMAGES = b"items", b"names", b"images"
MAP_SIZE = 2**26
"""Bytes that the file may grow to at first; address space only."""
PROBE_SECONDS = 3600
MAKE_ANEW = "restore it from a copy, or remove the index's folder to make it anew (crops of a stream are then lost)"

T = TypeVar("T")


class State(NamedTuple):
    """What of the vector files counts."""

    generation: int = 1
    """Number of the vector file in use."""
    rows: int = 0
    """Of it that are written, the dead among them."""
    next_id: int = 0
    """Of the next item; no id is given twice."""
    num_items: int = 0
    """Items there are."""


class Records:
    """An open file; made if missing. Not for several threads at once.

    Raises:
        DataError: it is damaged, of another program or format, of another model, or cannot be read or made.
    """

    def __init__(self, path: Path, dim: int, model: str) -> None:
        self.path = path
        self._about = {"format": FORMAT, "dim": dim, "model": model}
        if not path.exists():
            if left := sorted(path.parent.glob("vectors-*")):
                # They would be overwritten, and an index of them be taken for one of what is to come.
                raise DataError(f"{path}: is missing, while {left[0].name} is there; {MAKE_ANEW}")
            self._create()
        elif problem := _why_unsafe(path):
            raise DataError(f"{path}: {problem}; {MAKE_ANEW}")
        self._map_size = max(MAP_SIZE, 2 * _rounded(path.stat().st_size))
        try:
            self._environment = _open(path, self._map_size)
        except lmdb.Error as error:
            raise DataError(f"{path}: cannot be opened: {error}; {MAKE_ANEW}") from error
        try:
            self.state = self._read_state()
            self._items, self._names, self._images = (
                self._environment.open_db(name, create=False) for name in (ITEMS, NAMES, IMAGES)
            )
        except lmdb.Error as error:
            self.close()
            raise DataError(f"{path}: damaged, or of another program: {error}; {MAKE_ANEW}") from error
        except BaseException:
            self.close()
            raise

    def add(self, entries: Sequence[Entry], images: Sequence[bytes], state: State) -> None:
        """Add items with the ids from `self.state.next_id` on, and go over to `state`."""

        def work(transaction: lmdb.Transaction) -> None:
            for number, entry in enumerate(entries):
                key = sample_key(self.state.next_id + number)
                self._put(transaction, self._items, key, entry.pack())
                self._put(transaction, self._names, image_key(entry.item.name), key)
                if images:
                    self._put(transaction, self._images, key, images[number])

        self._change(work, state)

    def remove(self, ids: Sequence[int], state: State) -> None:
        """Remove items that exist, with their images, and go over to `state`."""
        names = [self.entry(id_).item.name for id_ in ids]

        def work(transaction: lmdb.Transaction) -> None:
            for id_, name in zip(ids, names, strict=True):
                transaction.delete(sample_key(id_), db=self._items)
                transaction.delete(image_key(name), db=self._names)
                transaction.delete(sample_key(id_), db=self._images)

        self._change(work, state)

    def renumber_rows(self, state: State) -> None:
        """Give all items, in the order of their ids, the rows 0, 1, ... and go over to `state`."""

        def work(transaction: lmdb.Transaction) -> None:
            for row, (id_, entry) in enumerate(entries):
                self._put(transaction, self._items, sample_key(id_), entry._replace(row=row).pack())

        entries = list(self.entries())
        self._change(work, state)

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Each id with its entry, by id."""
        with self._reading() as transaction:
            for key, record in transaction.cursor(self._items):
                yield int.from_bytes(key, "big"), Entry.unpack(self._unsealed(bytes(key), bytes(record)))

    def entry(self, id_: int) -> Entry:
        """Of one item; KeyError if there is none."""
        content = self._get(self._items, sample_key(id_)) if id_ >= 0 else None
        if content is None:
            raise KeyError(id_)
        return Entry.unpack(content)

    def image(self, id_: int) -> bytes | None:
        """The crop that was kept; None if none was."""
        return self._get(self._images, sample_key(id_))

    def has_name(self, name: str) -> bool:
        """Whether an item is called so."""
        return self._get(self._names, image_key(name)) is not None

    def num_names(self) -> int:
        """How many names are taken."""
        with self._reading() as transaction:
            return transaction.stat(self._names)["entries"]

    def close(self) -> None:
        """Close the file."""
        self._environment.close()

    def _create(self) -> None:
        try:
            with atomic_path(self.path) as temporary, _open(temporary, MAP_SIZE) as environment:
                for name in (ITEMS, NAMES, IMAGES):
                    environment.open_db(name)
                with environment.begin(write=True) as transaction:
                    self._put_state(transaction, State())
            sync_folder(self.path.parent)
        except lmdb.Error as error:
            raise DataError(f"{self.path}: cannot be made: {error}") from error

    def _read_state(self) -> State:
        content = self._get(None, ABOUT)
        if content is None:
            raise DataError(f"{self.path}: not a gallery's index; {MAKE_ANEW}")
        about = json.loads(content)
        if about["format"] != FORMAT:
            raise DataError(f"{self.path}: format {about['format']}; this version reads format {FORMAT}; {MAKE_ANEW}")
        for key, what in (("dim", "embeddings of size"), ("model", "embeddings of the model")):
            if about[key] != self._about[key]:
                raise DataError(
                    f"{self.path}: holds {what} {about[key]}, but {self._about[key]} is in use; use that model, or "
                    "another folder for the index"
                )
        return State(*about["state"])

    def _change(self, work: Callable[[lmdb.Transaction], None], state: State) -> None:
        """One transaction, begun anew with more room where the file has reached the size that was reserved."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    work(transaction)
                    self._put_state(transaction, state)
            except lmdb.MapFullError:
                # Nobody else has a transaction open: the gallery uses its records under a lock.
                self._map_size *= 2
                self._environment.set_mapsize(self._map_size)
            except lmdb.Error as error:
                raise DataError(f"{self.path}: cannot be written: {error}; free some space") from error
            else:
                self.state = state
                return

    def _put_state(self, transaction: lmdb.Transaction, state: State) -> None:
        self._put(transaction, None, ABOUT, to_json({**self._about, "state": state}))

    def _put(self, transaction: lmdb.Transaction, database: Any, key: bytes, content: bytes) -> None:
        transaction.put(key, add_checksum(key, content), db=database)

    def _get(self, database: Any, key: bytes) -> bytes | None:
        with self._reading() as transaction:
            record = transaction.get(key, db=database)
            return None if record is None else self._unsealed(key, bytes(record))

    def _reading(self) -> lmdb.Transaction:
        return self._environment.begin()

    def _unsealed(self, key: bytes, record: bytes) -> bytes:
        content = strip_checksum(key, record)
        if content is None:
            raise DataError(f"{self.path}: damaged: a record is not what was written; {MAKE_ANEW}")
        return content


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open(path: Path, map_size: int) -> lmdb.Environment:
    # One process uses the file, as the gallery's own lock ensures, and one thread at a time.
    return lmdb.open(os.fsencode(path), subdir=False, lock=False, max_dbs=3, map_size=map_size, readahead=False)


def _rounded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _why_unsafe(path: Path) -> str:
    """What is wrong with a file, so that LMDB must not open it in this process; "" if nothing is."""
    command = [sys.executable, "-I", str(probe.__file__), os.fspath(path)]
    try:
        run = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "damaged: its records cannot be read in any reasonable time"
    if run.returncode == 0:
        return ""
    lines = run.stderr.decode(errors="replace").strip().splitlines()
    return f"damaged, or of another program: {lines[-1] if lines else f'reading it ended with {run.returncode}'}"
