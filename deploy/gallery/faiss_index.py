"""An index of faiss over the first rows of a vector file."""

import importlib
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from utils.logs import bars_hidden

Kind = Literal["hnsw", "ivf_pq"]

LINKS = 32
"""Links of a node of the HNSW graph; twice as many in its lowest layer."""
EF_CONSTRUCTION, EF_SEARCH = 80, 128
"""Candidate lists while the graph is built and searched."""
NUMBERS_PER_CODE = 4
"""Values of an embedding that one byte of its PQ code encodes, if that divides D."""
CODES = 256
MAX_LISTS = 2**16
PROBED_SHARE = 1 / 32
MIN_PROBED = 8
"""Lists of IVF that are searched."""
TRAINING_ROWS_PER_LIST = 64
MIN_ROWS: dict[Kind, int] = {"hnsw": 1, "ivf_pq": 1024}
"""Fewest rows to train on."""
CANDIDATES: dict[Kind, tuple[int, int]] = {"hnsw": (2, 64), "ivf_pq": (10, 512)}
"""Factor of k, and minimum, of the candidates to compare exactly. HNSW has vectors in half precision, IVF-PQ codes."""
AT_ONCE = 16384
"""Rows that are added at a time."""


class FaissIndex(NamedTuple):
    """An index, its kind, and its training."""

    index: Any
    kind: Kind
    num_trained: int
    """Number of rows when it was trained."""

    @property
    def num_rows(self) -> int:
        """Number of indexed rows."""
        return self.index.ntotal

    def extend(self, vectors: np.ndarray) -> None:
        """Add the rows from `num_rows` on of all vectors (N, D)."""
        progress = tqdm(
            desc="indexing", total=len(vectors), initial=self.num_rows, unit="row", leave=False, disable=bars_hidden()
        )
        with progress:
            while self.num_rows < len(vectors):
                some = np.ascontiguousarray(vectors[self.num_rows : self.num_rows + AT_ONCE])
                self.index.add(some)
                progress.update(len(some))

    def candidates(self, queries: np.ndarray, k: int, wanted: np.ndarray | None) -> list[np.ndarray]:
        """Rows that may be among the k nearest, for each of (Q, D) queries.

        Args:
            wanted: (N,) bool, the rows to search; None = all.
        """
        faiss = import_faiss()
        times, least = CANDIDATES[self.kind]
        share = 1.0 if wanted is None else max(np.count_nonzero(wanted), 1) / len(wanted)
        num_found = min(max(times * k, least), self.num_rows)
        options: dict[str, Any] = {}
        if wanted is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))
        # The fewer are wanted, the more have to be visited.
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=math.ceil(max(EF_SEARCH, num_found) / share), **options)
        else:
            num_lists = self.index.nlist
            probed = math.ceil(max(MIN_PROBED, num_lists * PROBED_SHARE) / share)
            params = faiss.SearchParametersIVF(nprobe=min(num_lists, probed), **options)
        _, rows = self.index.search(np.ascontiguousarray(queries), num_found, params=params)
        return [some[some >= 0] for some in rows]


def build_index(kind: Kind, vectors: np.ndarray) -> FaissIndex:
    """An index of all rows (N, D), N at least MIN_ROWS.

    Sources: Malkov and Yashunin, Efficient and robust approximate nearest neighbor search using HNSW graphs, 2018;
    Jegou, Douze and Schmid, Product quantization for nearest neighbor search, 2011.
    """
    faiss = import_faiss()
    dim = vectors.shape[1]
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(np.ascontiguousarray(vectors[:1]))  # required by faiss, although half precision learns nothing
    else:
        num_lists = num_lists_for(len(vectors))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFPQ(quantizer, dim, num_lists, code_size(dim), 8, faiss.METRIC_INNER_PRODUCT)
        # Otherwise faiss warns on stderr that a small gallery has too few rows.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        # A quarter of faiss's default; the codes take a minute even so.
        index.pq.cp.max_points_per_centroid = TRAINING_ROWS_PER_LIST
        num_wanted = max(CODES, num_lists) * TRAINING_ROWS_PER_LIST
        sample = np.linspace(0, len(vectors) - 1, min(num_wanted, len(vectors))).astype(np.int64)
        index.train(vectors[sample])
    built = FaissIndex(index, kind, len(vectors))
    built.extend(vectors)
    return built


def hnsw_bytes(num_rows: int, dim: int) -> int:
    """Memory of an HNSW index: half-precision vectors, and links of 4 bytes."""
    return num_rows * (2 * dim + 4 * 2 * LINKS + 16)


def num_lists_for(num_rows: int) -> int:
    """Lists of IVF: about four times the square root of the rows, as faiss advises."""
    return max(1, min(MAX_LISTS, int(4 * math.sqrt(num_rows)), num_rows // 32))


def code_size(dim: int) -> int:
    """Bytes of a PQ code: the largest divisor of D that is at most D / NUMBERS_PER_CODE."""
    return next(size for size in range(max(1, dim // NUMBERS_PER_CODE), 0, -1) if dim % size == 0)


def import_faiss() -> Any:
    """faiss, imported when it is first needed; its functions have no types."""
    return importlib.import_module("faiss")
