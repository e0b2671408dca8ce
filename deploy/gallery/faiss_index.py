"""An index of faiss over the first rows of a vector file, whose numbers it returns."""

import importlib
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from utils.errors import DataError
from utils.logs import bars_hidden

Kind = Literal["hnsw", "ivf_pq"]

LINKS = 32
"""Of a node of the HNSW graph; twice as many in its lowest layer."""
EF_CONSTRUCTION, EF_SEARCH = 80, 128
"""Nodes that are kept in view while the graph is built and searched."""
NUMBERS_PER_CODE = 4
"""Numbers of an embedding that one byte of its PQ code stands for, if that divides it."""
CODES = 256
MAX_LISTS = 2**16
PROBED_SHARE = 1 / 32
MIN_PROBED = 8
"""Lists of IVF that are searched."""
TRAINING_ROWS_PER_LIST = 64
MIN_ROWS: dict[Kind, int] = {"hnsw": 1, "ivf_pq": 1024}
"""Below so many there is nothing to train on."""
CANDIDATES: dict[Kind, tuple[int, int]] = {"hnsw": (2, 64), "ivf_pq": (10, 512)}
"""To compare exactly: so many times k, and at least so many. HNSW sees vectors in half precision, IVF-PQ a sketch."""
AT_ONCE = 16384
"""Rows that are added at a time."""


class FaissIndex(NamedTuple):
    """An index, and how it came about."""

    index: Any
    kind: Kind
    num_trained: int
    """Rows there were when it was trained."""

    @property
    def num_rows(self) -> int:
        """Rows it knows."""
        return self.index.ntotal

    def extend(self, vectors: np.ndarray) -> None:
        """Take in the rows from `num_rows` on: vectors (N, D) are all there are."""
        progress = tqdm(
            desc="indexing", total=len(vectors), initial=self.num_rows, unit="row", leave=False, disable=bars_hidden()
        )
        with progress:
            while self.num_rows < len(vectors):
                some = np.ascontiguousarray(vectors[self.num_rows : self.num_rows + AT_ONCE])
                self.index.add(some)
                progress.update(len(some))

    def candidates(self, queries: np.ndarray, k: int, wanted: np.ndarray | None) -> list[np.ndarray]:
        """Rows that may be among the k nearest, for each of (Q, D) queries; -1 never among them.

        Args:
            wanted: (N,) bool, the rows to look for; None = all.
        """
        faiss = import_faiss()
        times, least = CANDIDATES[self.kind]
        share = 1.0 if wanted is None else max(np.count_nonzero(wanted), 1) / len(wanted)
        num_found = min(max(times * k, least), self.num_rows)
        options: dict[str, Any] = {}
        if wanted is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))
        # Where few are wanted, more have to be visited to meet as many.
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=math.ceil(max(EF_SEARCH, num_found) / share), **options)
        else:
            num_lists = self.index.nlist
            probed = math.ceil(max(MIN_PROBED, num_lists * PROBED_SHARE) / share)
            params = faiss.SearchParametersIVF(nprobe=min(num_lists, probed), **options)
        _, rows = self.index.search(np.ascontiguousarray(queries), num_found, params=params)
        return [some[some >= 0] for some in rows]

    def write(self, path: Path) -> None:
        """Write it to a file."""
        import_faiss().write_index(self.index, str(path))


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
        index.train(np.ascontiguousarray(vectors[:1]))  # half precision needs none, but faiss wants the call
    else:
        num_lists = num_lists_for(len(vectors))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFPQ(quantizer, dim, num_lists, code_size(dim), 8, faiss.METRIC_INNER_PRODUCT)
        # Else faiss advises on stderr to use more rows than a small gallery has.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        # By faiss's default they would be four times as many; even with these the codes take a minute.
        index.pq.cp.max_points_per_centroid = TRAINING_ROWS_PER_LIST
        num_wanted = max(CODES, num_lists) * TRAINING_ROWS_PER_LIST
        sample = np.linspace(0, len(vectors) - 1, min(num_wanted, len(vectors))).astype(np.int64)
        index.train(vectors[sample])
    built = FaissIndex(index, kind, len(vectors))
    built.extend(vectors)
    return built


def read_index(path: Path, kind: Kind, num_trained: int) -> FaissIndex:
    """What `FaissIndex.write` wrote, whole and unchanged.

    Raises:
        DataError: faiss cannot read it.
    """
    try:
        return FaissIndex(import_faiss().read_index(str(path)), kind, num_trained)
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read by faiss: {error}") from error


def hnsw_bytes(num_rows: int, dim: int) -> int:
    """Memory of an HNSW index: half-precision vectors, and links of 4 bytes."""
    return num_rows * (2 * dim + 4 * 2 * LINKS + 16)


def num_lists_for(num_rows: int) -> int:
    """Of IVF: about four times the square root of the rows, as faiss advises."""
    return max(1, min(MAX_LISTS, int(4 * math.sqrt(num_rows)), num_rows // 32))


def code_size(dim: int) -> int:
    """Bytes of a PQ code: the most that divide D, but no more than one for NUMBERS_PER_CODE numbers."""
    return next(size for size in range(max(1, dim // NUMBERS_PER_CODE), 0, -1) if dim % size == 0)


def import_faiss() -> Any:
    """The module, which is needed for very large galleries only.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise DataError(f'an approximate index needs faiss ({error}); pip install faiss-cpu, or use "exact"') from error
