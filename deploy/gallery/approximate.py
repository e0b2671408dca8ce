"""Approximate search in large galleries: an index that is built when first needed, extended, and saved."""

import json
import logging
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy.gallery.exact import Found, nearest_of
from deploy.gallery.faiss_index import MIN_ROWS, FaissIndex, Kind, build_index, hnsw_bytes, import_faiss
from utils.errors import DataError
from utils.files import atomic_path, write_json

Choice = Literal["auto", "exact", "hnsw", "ivf_pq"]

EXACT_ROWS = 1_000_000
"""Up to so many rows, comparing with all of them takes less than half a second on two CPUs."""
HNSW_BYTES = 2**32
"""Largest HNSW graph: 4 GiB, for 3.3 million embeddings of size 512. IVF-PQ takes a tenth."""
GROWTH = 4
"""IVF-PQ is trained again when the gallery has grown by this factor: its lists have become that much longer."""
SELECTIVE_SHARE = 0.05
"""If filters leave a smaller share of the rows, these are compared exactly; an index would visit all rows for a few."""
FORMAT = 1

logger = logging.getLogger(__name__)


def choose(choice: Choice, num_rows: int, dim: int) -> Kind | None:
    """The index for so many rows of size D; None = exact search, also for fewer rows than an index is trained on."""
    if choice == "exact" or (choice == "auto" and num_rows <= EXACT_ROWS):
        return None
    if choice == "auto":
        return "hnsw" if hnsw_bytes(num_rows, dim) <= HNSW_BYTES else "ivf_pq"
    return choice if num_rows >= MIN_ROWS[choice] else None


class ApproximateSearch:
    """The index of one generation of a gallery's rows; thread-safe.

    Args:
        folder: where it is saved.
        generation: of the rows; an index saved for another one is not used.
        dim: D.
        choice: the user's choice.
    """

    def __init__(self, folder: Path, generation: int, dim: int, choice: Choice) -> None:
        self._file = folder / f"index-{generation}.faiss"
        self._dim = dim
        self._choice: Choice = choice
        self._index: FaissIndex | None = None
        self._search_lock, self._build_lock = threading.Lock(), threading.Lock()
        self._num_saved = 0

    def search(
        self, vectors: np.ndarray, count: int, wanted: np.ndarray | None, queries: np.ndarray, k: int
    ) -> list[Found] | None:
        """The nearest rows like `search_exactly`, except that some may be missed; None: search exactly.

        Args:
            vectors: (N, D) float32, the rows.
            count: number of living rows.
            wanted: (N,) bool, the rows to search; None = all.
            queries: (Q, D) float32.
            k: number of rows; None is returned if the index finds fewer although there are as many.
        """
        kind = choose(self._choice, count, self._dim)
        num_wanted = len(vectors) if wanted is None else np.count_nonzero(wanted)
        if kind is None or num_wanted <= max(k, SELECTIVE_SHARE * len(vectors)):
            return None
        if not self._update(kind, vectors):
            return None
        with self._search_lock:
            if self._index is None:  # another thread has started to build it again
                return None
            if wanted is not None and len(wanted) < self._index.num_rows:  # rows were added in between
                wanted = np.pad(wanted, (0, self._index.num_rows - len(wanted)))
            candidates = self._index.candidates(queries, k, wanted)
        candidates = [rows[rows < len(vectors)] for rows in candidates]
        if min(map(len, candidates)) < min(k, num_wanted):
            return None
        return [nearest_of(vectors, rows, query, k) for rows, query in zip(candidates, queries, strict=True)]

    def save(self) -> None:
        """Save the index for the next process, which builds it again if the disk is full."""
        with self._build_lock, self._search_lock:
            if self._index is None or self._index.num_rows == self._num_saved:
                return
            try:
                with atomic_path(self._file) as temporary:
                    import_faiss().write_index(self._index.index, str(temporary))
                    fields = {**self._settings(self._index.kind), "rows": self._index.num_rows}
                    fields |= {"trained": self._index.num_trained, "checksum": _checksum(temporary)}
                write_json(self._file.with_suffix(".json"), fields)
            except (DataError, RuntimeError) as error:  # faiss raises the second for a full disk
                logger.warning("%s: not saved; the index will be built again: %s", self._file, error)
            else:
                self._num_saved = self._index.num_rows

    def _update(self, kind: Kind, vectors: np.ndarray) -> bool:
        """Load, build or extend the index to all rows; False while another thread builds it."""
        # Wait for an extension, but not for a build, which takes minutes.
        if not self._build_lock.acquire(blocking=self._index is not None):
            return False
        try:
            index = self._index
            if index is None or index.kind != kind:
                index = self._load(kind, len(vectors))
            if index is None or (index.kind == "ivf_pq" and len(vectors) >= GROWTH * index.num_trained):
                self._index = None
                start = time.perf_counter()
                index = build_index(kind, vectors)
                elapsed = time.perf_counter() - start
                logger.info("%s: built over %s rows in %.1f s", self._file, f"{len(vectors):,}", elapsed)
                self._num_saved = 0
            with self._search_lock:
                self._index = index
                if index.num_rows < len(vectors):
                    index.extend(vectors)
        finally:
            self._build_lock.release()
        return True

    def _load(self, kind: Kind, num_rows: int) -> FaissIndex | None:
        """The saved index, if it is undamaged and belongs to a gallery of at most so many rows."""
        try:
            fields = json.loads(self._file.with_suffix(".json").read_text(encoding="utf-8"))
            rows, trained, checksum = (fields.pop(key) for key in ("rows", "trained", "checksum"))
            if fields != self._settings(kind) or checksum != _checksum(self._file):
                return None
            index = FaissIndex(import_faiss().read_index(str(self._file)), kind, trained)
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError):  # faiss raises the last one
            return None
        if index.num_rows != rows or rows > num_rows:  # more rows: the records are an older copy
            return None
        self._num_saved = rows
        logger.info("%s: loaded with %s rows", self._file, f"{rows:,}")
        return index

    def _settings(self, kind: Kind) -> dict[str, Any]:
        """What a saved index must have been made with."""
        return {"format": FORMAT, "kind": kind, "dim": self._dim, "faiss": import_faiss().__version__}


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum = zlib.crc32(block, checksum)
    return checksum
