"""When a gallery is searched approximately, and the index for that: built when first needed, kept in step, saved."""

import json
import logging
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deploy.gallery.exact import Found, nearest_of
from deploy.gallery.faiss_index import (
    MIN_ROWS,
    FaissIndex,
    Kind,
    build_index,
    hnsw_bytes,
    import_faiss,
    read_index,
)
from utils.errors import DataError
from utils.files import atomic_path, write_json

Choice = Literal["auto", "exact", "hnsw", "ivf_pq"]

EXACT_ROWS = 1_000_000
"""Up to so many rows, comparing with every one takes less than half a second on two processors."""
HNSW_BYTES = 2**32
"""What the graph may take of the memory: 4 GiB, for 3.3 million embeddings of 512 numbers. IVF-PQ takes a tenth."""
GROWTH = 4
"""IVF-PQ is trained anew when the gallery has grown so many times: its lists have become that much longer."""
SELECTIVE_SHARE = 0.05
"""Where filters leave fewer of the rows, these are compared exactly; an index would visit all of them for a few."""
FORMAT = 1

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """How to search, and why."""

    kind: Kind | None
    """None: exactly."""
    reason: str


def choose(choice: Choice, num_rows: int, dim: int) -> Chosen:
    """How to search so many rows of D numbers."""
    if choice == "exact":
        return Chosen(None, "as asked for")
    if choice != "auto":
        if num_rows < MIN_ROWS[choice]:
            return Chosen(None, f"{choice} needs {MIN_ROWS[choice]:,} embeddings to be trained on")
        return Chosen(choice, "as asked for")
    if num_rows <= EXACT_ROWS:
        return Chosen(None, f"at most {EXACT_ROWS:,} embeddings")
    graph = f"a graph of {hnsw_bytes(num_rows, dim) / 2**30:.1f} GiB"
    if hnsw_bytes(num_rows, dim) <= HNSW_BYTES:
        return Chosen("hnsw", f"more than {EXACT_ROWS:,} embeddings, and {graph} fits in {HNSW_BYTES / 2**30:.0f} GiB")
    return Chosen("ivf_pq", f"{graph} would take more than {HNSW_BYTES / 2**30:.0f} GiB")


class ApproximateSearch:
    """The index of one generation of a gallery's rows; for several threads at once.

    Args:
        folder: where it is saved.
        generation: of the rows; what was saved for another is not used.
        dim: D.
        choice: what the user asks for.
    """

    def __init__(self, folder: Path, generation: int, dim: int, choice: Choice) -> None:
        self.folder, self.generation, self._dim = folder, generation, dim
        self._choice: Choice = choice
        self._index: FaissIndex | None = None
        self._in_use, self._in_work = threading.Lock(), threading.Lock()
        self._told = ""
        self._num_saved = 0

    def search(
        self, vectors: np.ndarray, count: int, wanted: np.ndarray | None, queries: np.ndarray, k: int
    ) -> list[Found] | None:
        """The nearest rows, as `search_exactly` has them but for some that may be missed; None: search exactly.

        Args:
            vectors: (N, D) float32, the rows.
            count: how many are alive.
            wanted: (N,) bool, those to look for; None = all.
            queries: (Q, D) float32.
            k: how many; where the index finds fewer, though there are as many, it is left to the exact search.
        """
        chosen = choose(self._choice, count, self._dim)
        num_wanted = len(vectors) if wanted is None else np.count_nonzero(wanted)
        if chosen.kind is None or num_wanted <= max(k, SELECTIVE_SHARE * len(vectors)):
            self._tell(chosen)
            return None
        if not self._is_ready(chosen, vectors):
            return None
        with self._in_use:
            if self._index is None:  # another thread has just begun to build it anew
                return None
            if wanted is not None and len(wanted) < self._index.num_rows:  # rows that were added meanwhile
                wanted = np.pad(wanted, (0, self._index.num_rows - len(wanted)))
            candidates = self._index.candidates(queries, k, wanted)
        candidates = [rows[rows < len(vectors)] for rows in candidates]
        if min(map(len, candidates)) < min(k, num_wanted):
            return None
        return [nearest_of(vectors, rows, query, k) for rows, query in zip(candidates, queries, strict=True)]

    def save(self) -> None:
        """Keep the index for the next process; where the disk is full, it will be built anew."""
        with self._in_work, self._in_use:
            if self._index is None or self._index.num_rows == self._num_saved:
                return
            try:
                with atomic_path(self._file) as temporary:
                    self._index.write(temporary)
                    fields = {**self._about(self._index.kind), "rows": self._index.num_rows}
                    fields |= {"trained": self._index.num_trained, "checksum": _checksum(temporary)}
                write_json(self._file.with_suffix(".json"), fields)
            except (DataError, RuntimeError) as error:  # faiss has the second for a full disk
                logger.warning("%s: the index is not saved, and will be built anew: %s", self._file, error)
            else:
                self._num_saved = self._index.num_rows

    @property
    def _file(self) -> Path:
        return self.folder / f"index-{self.generation}.faiss"

    def _is_ready(self, chosen: Chosen, vectors: np.ndarray) -> bool:
        """Bring the index up to date; False while another thread is building it."""
        # Some rows more are waited for; a build, which takes minutes, is not.
        if not self._in_work.acquire(blocking=self._index is not None):
            return False
        try:
            index = self._index
            if index is None or index.kind != chosen.kind:
                index = self._load(chosen, len(vectors))
            if index is None or (index.kind == "ivf_pq" and len(vectors) >= GROWTH * index.num_trained):
                self._index = None
                index = self._build(chosen, vectors)
            with self._in_use:
                self._index = index
                if index.num_rows < len(vectors):
                    index.extend(vectors)
        finally:
            self._in_work.release()
        return True

    def _build(self, chosen: Chosen, vectors: np.ndarray) -> FaissIndex:
        assert chosen.kind is not None
        start = time.perf_counter()
        index = build_index(chosen.kind, vectors)
        self._tell(chosen, f"; built over {len(vectors):,} rows in {time.perf_counter() - start:.1f} s")
        self._num_saved = 0
        return index

    def _load(self, chosen: Chosen, num_rows: int) -> FaissIndex | None:
        """The saved index, if there is one that fits a gallery of so many rows."""
        assert chosen.kind is not None
        try:
            fields = json.loads(self._file.with_suffix(".json").read_text(encoding="utf-8"))
            rows, trained, checksum = (fields.pop(key) for key in ("rows", "trained", "checksum"))
            if fields != self._about(chosen.kind) or checksum != _checksum(self._file):
                return None
            index = read_index(self._file, chosen.kind, trained)
        except (OSError, ValueError, KeyError, AttributeError, DataError):
            return None
        if index.num_rows != rows or rows > num_rows:  # more: the records are an older copy
            return None
        self._num_saved = rows
        self._tell(chosen, f"; {rows:,} rows were indexed before")
        return index

    def _about(self, kind: Kind) -> dict[str, Any]:
        """What a saved index must have been made with."""
        return {"format": FORMAT, "kind": kind, "dim": self._dim, "faiss": import_faiss().__version__}

    def _tell(self, chosen: Chosen, more: str = "") -> None:
        name = {None: "exact search", "hnsw": "HNSW index", "ivf_pq": "IVF-PQ index"}[chosen.kind]
        # Of exact search the reason has no numbers that change, so that it is told once.
        if more or name != self._told:
            logger.info("%s: %s (%s)%s", self.folder, name, chosen.reason, more)
            self._told = name


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum = zlib.crc32(block, checksum)
    return checksum
