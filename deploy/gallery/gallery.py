"""Embeddings of images on disk, with name, camera and time, and the search for the nearest."""

import threading
import zlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from math import inf
from pathlib import Path

import numpy as np

from deploy.gallery.approximate import ApproximateSearch, Choice
from deploy.gallery.exact import LENGTH_TOLERANCE, Found, search_exactly
from deploy.gallery.items import Entry, Item, Match, UnknownIdError
from deploy.gallery.records import Records
from deploy.gallery.rows import open_rows
from deploy.gallery.vectors import DTYPE
from utils.errors import DataError
from utils.files import remove_leftovers
from utils.locks import locked

__all__ = ["Gallery", "Item", "Match", "NameTakenError", "UnknownIdError"]


class NameTakenError(DataError):
    """An item of this name is in the gallery already."""


class Gallery:
    """An index of images by their embeddings; for one process, and any number of its threads.

    Changes by `add` and `remove` are on disk when they return; a kill within one of them leaves all or nothing of it.
    If more than half of the rows belong to removed items, they are dropped when the gallery is opened.

    Up to a million images every search is exact. Above that, an index of faiss finds candidates, whose distances and
    order are exact; near images may be missed. The first search builds it; searches of other threads are exact until
    it is ready.

    Args:
        folder: of the index, created if missing; for nothing else.
        dim: D, size of the embeddings.
        model: identifies the model; embeddings of different models cannot be compared.
        index: "auto", or the search at any size.

    Raises:
        DataError: the index is damaged, of another model, or cannot be read or created.
        LockedError: another process uses it, or another gallery of this process.
    """

    def __init__(self, folder: Path, dim: int, model: str, *, index: Choice = "auto") -> None:
        if dim < 1:
            raise ValueError(f"dim: at least 1 expected, got {dim}")
        self.folder, self.dim, self.model = folder, dim, model
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be created: {error.strerror}") from error
        with ExitStack() as stack:
            stack.enter_context(locked(folder / ".lock", "a gallery", wait=False))
            remove_leftovers(folder)
            self._records = stack.enter_context(closing(Records(folder / "items.lmdb", dim, model)))
            self._vectors, self._columns = open_rows(folder, self._records, dim)
            stack.callback(self._vectors.close)
            self._approximate = ApproximateSearch(folder, self._records.state.generation, dim, index)
            stack.callback(self._approximate.save)
            self._resources = stack.pop_all()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._records.state.num_items

    def add(self, vectors: np.ndarray, items: Sequence[Item], images: Sequence[bytes] = ()) -> list[int]:
        """Add images.

        Args:
            vectors: (N, D) float32 of unit length.
            items: name, camera and time of each.
            images: encoded images to store, one for each item; () = none.

        Returns:
            Their ids, ascending; ids are not reused.

        Raises:
            NameTakenError: there is an item of the same name.
            DataError: the disk is full.
            ValueError: wrong shapes or numbers, vectors not of unit length, equal names, or an invalid item.
        """
        vectors = self._checked(vectors)
        if len(items) != len(vectors) or (images and len(images) != len(items)):
            raise ValueError(f"{len(vectors)} vectors, {len(items)} items and {len(images)} images")
        if problems := [problem for item in items if (problem := item.problem())]:
            raise ValueError(problems[0])
        if len({item.name for item in items}) < len(items):
            raise ValueError("names: several items have the same name")
        if not len(items):
            return []
        with self._lock:
            if taken := [item.name for item in items if self._records.has_name(item.name)]:
                raise NameTakenError(f"{taken[0]}: is in the gallery already; remove it first, or take another name")
            state = self._records.state
            self._vectors.write(state.rows, vectors)
            rows = range(state.rows, state.rows + len(items))
            checksums = [zlib.crc32(vector) for vector in vectors]
            entries = [Entry(*fields) for fields in zip(rows, checksums, items, strict=True)]
            ids = list(range(state.next_id, state.next_id + len(items)))
            after = state._replace(rows=rows.stop, next_id=ids[-1] + 1, num_items=state.num_items + len(items))
            self._records.add(entries, images, after)
            camids, times = [item.camid for item in items], [item.time for item in items]
            self._columns = self._columns.append(ids, camids, times)
        return ids

    def remove(self, ids: Sequence[int]) -> None:
        """Remove images; none if there is no such id, which raises an UnknownIdError."""
        ids = list(dict.fromkeys(ids))
        if not ids:
            return
        with self._lock:
            rows = [self._records.entry(id_).row for id_ in ids]
            state = self._records.state
            self._records.remove(ids, state._replace(num_items=state.num_items - len(ids)))
            self._columns = self._columns.kill(rows)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        camids: Collection[int] = (),
        start: float = -inf,
        end: float = inf,
    ) -> list[list[Match]]:
        """The images nearest to each query.

        Args:
            queries: (Q, D) float32 of unit length.
            k: number of matches, if there are as many images.
            camids: only images of these cameras; () = all.
            start, end: only images taken in this span, Unix seconds, inclusive; images of unknown time are in no span.

        Returns:
            For each query its matches, nearest first; of equal distances the lower id first.
        """
        queries = self._checked(queries)
        if k < 1:
            raise ValueError(f"k: at least 1 expected, got {k}")
        while True:
            with self._lock:
                columns = self._columns
                vectors = self._vectors.rows(len(columns.ids))
            wanted = columns.select(camids, start, end)
            found = self._approximate.search(vectors, columns.num_alive, wanted, queries, k)
            if found is None:
                found = search_exactly(vectors, wanted, queries, k)
            with self._lock:
                is_alive = self._columns.is_alive
                # Otherwise images were removed during the search, and others take their places.
                if all(is_alive[one.rows].all() for one in found):
                    return [self._matches(one, columns.ids) for one in found]

    def item(self, id: int) -> Item:
        """Name, camera and time of an image; raises an UnknownIdError if there is no such id."""
        with self._lock:
            return self._records.entry(id).item

    def vector(self, id: int) -> np.ndarray:
        """The embedding of an image, (D,) float32; raises an UnknownIdError if there is no such id."""
        with self._lock:
            row = self._records.entry(id).row
            return self._vectors.rows(row + 1)[row].copy()

    def image(self, id: int) -> bytes | None:
        """The stored image, or None; raises an UnknownIdError if there is no such id."""
        with self._lock:
            self._records.entry(id)
            return self._records.image(id)

    def items(self) -> dict[int, Item]:
        """All items by id, in the order of the ids."""
        with self._lock:
            return {id_: entry.item for id_, entry in self._records.entries()}

    def cameras(self) -> list[int]:
        """The cameras of the images, sorted."""
        columns = self._columns
        return np.unique(columns.camids[columns.is_alive]).tolist()

    def close(self) -> None:
        """Save the index and release the folder; a second call does nothing."""
        with self._lock:
            self._resources.close()

    def _matches(self, found: Found, ids: np.ndarray) -> list[Match]:
        numbers = zip(ids[found.rows].tolist(), found.distances.tolist(), strict=True)
        return [Match(id_, self._records.entry(id_).item, distance) for id_, distance in numbers]

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"vectors: expected float32 (N, {self.dim}), got {vectors.dtype} {vectors.shape}")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        is_wrong = ~(np.abs(lengths - 1) <= LENGTH_TOLERANCE)
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise ValueError(f"vectors: expected unit length, got {lengths[row]:.6g} in row {row}")
        return np.ascontiguousarray(vectors, DTYPE)
