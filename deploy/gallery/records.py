"""The records of a gallery, in one LMDB file.

    _gallery   (no database)  JSON: format, size of the embeddings, model, and a `State`
    items      (database)     id, 8 bytes, big-endian -> `Entry`
    names      (database)     hash of the name -> id
    images     (database)     id -> an encoded image that is not in the folder

Every record begins with a checksum of its key and content. Each change is one transaction, synced to disk: after a
kill, either all of it is there or nothing.
"""

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from data.lmdb.format import add_checksum, image_key, sample_key, strip_checksum, to_json
from deploy.gallery.items import Entry, UnknownIdError
from utils.errors import DataError
from utils.files import atomic_path

FORMAT = 1
"""Incremented with every change that an older version cannot read."""
ABOUT = b"_gallery"
ITEMS, NAMES, IMAGES = b"items", b"names", b"images"
MAP_SIZE = 2**26
"""Initial maximum size of the file, bytes; only address space is reserved."""
REBUILD = "restore it from a copy, or remove the index's folder to rebuild it (uploaded images are then lost)"


_Change = tuple[Any, bytes, bytes | None]
"""A database, a key, and the new content; None = delete."""


class State(NamedTuple):
    """The current vector file, and counts."""

    generation: int = 1
    """Number of the current vector file."""
    rows: int = 0
    """Rows written to it, including dead ones."""
    next_id: int = 0
    """Id of the next item; ids are not reused."""
    num_items: int = 0
    """Number of items."""


class Records:
    """An open file, created if missing; for one thread at a time.

    Raises:
        DataError: it is damaged, of another program, format or model, or cannot be read or created.
    """

    def __init__(self, path: Path, dim: int, model: str) -> None:
        self.path = path
        self._about = {"format": FORMAT, "dim": dim, "model": model}
        if not path.exists():
            if left := sorted(path.parent.glob("vectors-*")):
                # New items would overwrite them.
                raise DataError(f"{path}: is missing, while {left[0].name} is there; {REBUILD}")
            self._create()
        size = path.stat().st_size
        self._map_size = max(MAP_SIZE, 2 * -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        with self._damage_refused():
            self._environment = _open(path, self._map_size)
        try:
            with self._damage_refused():
                num_pages = self._environment.info()["last_pgno"] + 1
                if size < num_pages * self._environment.stat()["psize"]:  # LMDB would read beyond the end, and crash
                    raise DataError(f"{path}: damaged: truncated; {REBUILD}")
                self.state = self._read_state()
                self._items, self._names, self._images = (
                    self._environment.open_db(name, create=False) for name in (ITEMS, NAMES, IMAGES)
                )
        except BaseException:
            self.close()
            raise

    def add(self, entries: Sequence[Entry], images: Sequence[bytes], state: State) -> None:
        """Add items with ids from `self.state.next_id`, and set the state."""

        changes: list[_Change] = []
        for number, entry in enumerate(entries):
            key = sample_key(self.state.next_id + number)
            changes += [(self._items, key, entry.pack()), (self._names, image_key(entry.item.name), key)]
            changes += [(self._images, key, images[number])] if images else []
        self._write(changes, state)

    def remove(self, ids: Sequence[int], state: State) -> None:
        """Remove existing items with their images, and set the state."""
        changes: list[_Change] = []
        for id_ in ids:
            changes += [(self._names, image_key(self.entry(id_).item.name), None)]
            changes += [(database, sample_key(id_), None) for database in (self._items, self._images)]
        self._write(changes, state)

    def renumber_rows(self, state: State) -> None:
        """Number the rows of all items 0, 1, ... in the order of their ids, and set the state."""
        renumbered = ((id_, entry._replace(row=row)) for row, (id_, entry) in enumerate(self.entries()))
        self._write([(self._items, sample_key(id_), entry.pack()) for id_, entry in renumbered], state)

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Each id with its entry, by id."""
        with self._damage_refused(), self._environment.begin() as transaction:
            for key, record in transaction.cursor(self._items):
                yield int.from_bytes(key, "big"), Entry.unpack(self._checked(bytes(key), bytes(record)))

    def entry(self, id_: int) -> Entry:
        """The entry of an item; raises an UnknownIdError if there is none."""
        content = self._get(self._items, sample_key(id_)) if 0 <= id_ < self.state.next_id else None
        if content is None:
            raise UnknownIdError(id_)
        return Entry.unpack(content)

    def image(self, id_: int) -> bytes | None:
        """The stored image; None if there is none."""
        return self._get(self._images, sample_key(id_))

    def has_name(self, name: str) -> bool:
        """Whether there is an item of this name."""
        return self._get(self._names, image_key(name)) is not None

    def num_names(self) -> int:
        """Number of names."""
        with self._damage_refused(), self._environment.begin() as transaction:
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
            raise DataError(f"{self.path}: cannot be created: {error}") from error

    def _read_state(self) -> State:
        content = self._get(None, ABOUT)
        if content is None:
            raise DataError(f"{self.path}: not a gallery's index; {REBUILD}")
        about = json.loads(content)
        if about["format"] != FORMAT:
            raise DataError(f"{self.path}: format {about['format']}; this version reads format {FORMAT}; {REBUILD}")
        for key, what in (("dim", "embeddings of size"), ("model", "embeddings of the model")):
            if about[key] != self._about[key]:
                raise DataError(
                    f"{self.path}: holds {what} {about[key]}, but {self._about[key]} is in use; use that model, or "
                    "another folder for the index"
                )
        return State(*about["state"])

    def _write(self, changes: Sequence[_Change], state: State) -> None:
        """Write changes and the state in one transaction; again with a larger map if the file's maximum is reached."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for database, key, content in changes:
                        if content is None:
                            transaction.delete(key, db=database)
                        else:
                            transaction.put(key, add_checksum(key, content), db=database)
                    self._put_state(transaction, state)
            except lmdb.MapFullError:
                # No other transaction is open: the gallery uses its records under a lock.
                self._map_size *= 2
                self._environment.set_mapsize(self._map_size)
            except lmdb.Error as error:
                raise DataError(f"{self.path}: cannot be written: {error}; free some space") from error
            else:
                self.state = state
                return

    def _put_state(self, transaction: lmdb.Transaction, state: State) -> None:
        transaction.put(ABOUT, add_checksum(ABOUT, to_json({**self._about, "state": state})))

    def _get(self, database: Any, key: bytes) -> bytes | None:
        with self._damage_refused(), self._environment.begin() as transaction:
            record = transaction.get(key, db=database)
            return None if record is None else self._checked(key, bytes(record))

    @contextmanager
    def _damage_refused(self) -> Iterator[None]:
        """Turn LMDB's errors within the block into a DataError."""
        try:
            yield
        except lmdb.Error as error:
            raise DataError(f"{self.path}: damaged, or of another program: {error}; {REBUILD}") from error

    def _checked(self, key: bytes, record: bytes) -> bytes:
        content = strip_checksum(key, record)
        if content is None:
            raise DataError(f"{self.path}: damaged: a record does not match its checksum; {REBUILD}")
        return content


def sync_folder(folder: Path) -> None:
    """Sync the names of a folder's files to disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open(path: Path, map_size: int) -> lmdb.Environment:
    # The gallery's own lock ensures that one process uses the file, and one thread at a time.
    return lmdb.open(os.fsencode(path), subdir=False, lock=False, max_dbs=3, map_size=map_size, readahead=False)
