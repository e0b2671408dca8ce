"""Distances between embeddings, at full single precision, a block of queries at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError

Metric = Literal["cosine", "euclidean"]

ROWS = 4096  # embeddings squared at once: their squares take as much memory as they

BLOCK_QUERIES = 512
"""Queries in a block on the CPU, at most: with fewer the matrix product is slower, with more no faster."""


class Distances(Protocol):
    """Any way of scoring a gallery for queries. Nobody ever asks for the whole (Q, G) matrix."""

    shape: tuple[int, int]
    """(Q, G)."""
    device: torch.device
    """Where the rows lie."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Distances of queries start..stop: (stop - start, G) float32, finite and nowhere negative.

        They are the caller's until it asks for the next rows: it may write into them, but not keep them.
        """
        ...


class FeatureDistances:
    """Distances between embeddings. Equal gallery embeddings are equally far from a query, to the bit.

    Args:
        query: (Q, D) float32 embeddings, need not be of unit length.
        gallery: (G, D) likewise, on the same device.
        metric: "cosine": 1 - cosine of the angle, 0..2; "euclidean": length of the difference.

    Raises:
        DataError: an embedding too long for single precision; for "cosine" one of length zero, without direction.
        ValueError: shapes do not fit, an embedding is not finite, or the metric is unknown.
    """

    def __init__(self, query: Tensor, gallery: Tensor, metric: Metric) -> None:
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f"metric: unknown metric {metric!r}; allowed: cosine, euclidean")
        if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1] or not query.shape[1]:
            raise ValueError(f"embeddings (Q, D) and (G, D) expected, got {tuple(query.shape)}, {tuple(gallery.shape)}")
        self.shape = (len(query), len(gallery))
        self.device = gallery.device
        self._query, self._gallery = query.float(), gallery.float()
        self._cosine = metric == "cosine"
        if not self._cosine:
            self._query, self._gallery = _without_offset(self._query, self._gallery)
        # Lengths are applied to the products: unit-length copies of the embeddings would double their memory.
        self._query_square = _squared_lengths(self._query, "query")
        self._gallery_square = _squared_lengths(self._gallery, "gallery")
        if self._cosine:
            self._query_scale = _inverse_lengths(self._query_square, "query")
            self._gallery_scale = _inverse_lengths(self._gallery_square, "gallery")
        self._repeats = _repeats(self._gallery)
        self._buffer = torch.empty(0)

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32, as `Distances` says."""
        distance = self._product(self._query[start:stop])
        if self._cosine:
            distance.mul_(self._query_scale[start:stop, None]).mul_(self._gallery_scale).neg_().add_(1.0)
            distance.clamp_(min=0.0)
        else:
            distance.mul_(-2.0).add_(self._query_square[start:stop, None]).add_(self._gallery_square)
            distance.clamp_(min=0.0).sqrt_()
        if len(self._repeats.rows):
            # In a product a row's place decides in which order its numbers are added up, and so how they are rounded.
            distance[:, self._repeats.rows] = distance[:, self._repeats.firsts]
        return distance

    def _product(self, query: Tensor) -> Tensor:
        """Inner products (R, G), in a buffer that the next block overwrites."""
        if self.device.type != "cpu":
            with full_precision():
                return query @ self._gallery.T
        if len(self._buffer) < len(query):
            self._buffer = torch.empty((len(query), self.shape[1]))
        product = self._buffer[: len(query)]
        # NumPy's BLAS is as fast as torch's on Intel's processors and half as slow again on others.
        np.matmul(query.numpy(), self._gallery.numpy().T, out=product.numpy())
        return product


class MatrixDistances:
    """A (Q, G) matrix of distances that is there already, for small problems."""

    def __init__(self, matrix: Tensor) -> None:
        self.shape = (len(matrix), matrix.shape[1])
        self.device = matrix.device
        self._matrix = matrix

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32, as `Distances` says."""
        return self._matrix[start:stop].float().clone()


def blocks(distances: Distances, memory: int, bytes_per_pair: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of queries that together are all of them.

    Args:
        distances: say how many queries there are, and how large the gallery is.
        memory: bytes that the work on one block may take; one query is the least.
        bytes_per_pair: bytes the work takes for each query and gallery image, its distance included.
    """
    num_query, num_gallery = distances.shape
    size = max(1, memory // (bytes_per_pair * max(1, num_gallery)))
    if distances.device.type == "cpu":
        size = min(size, BLOCK_QUERIES)
    for start in range(0, num_query, size):
        yield start, min(start + size, num_query)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products inside do not round to TF32 or bfloat16, whatever training has set for speed.

    TF32 keeps 10 bits of mantissa: too few to order thousands of gallery images that lie close together.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


class _Repeats(NamedTuple):
    """Embeddings that are there already: their rows (N,) int64, and of each the first row (N,) like it."""

    rows: Tensor
    firsts: Tensor


def _repeats(features: Tensor) -> _Repeats:
    """Which of (G, D) float32 embeddings repeat an earlier one."""
    # Equal rows have equal keys, as whole numbers add up the same in any order; of others hardly any two do.
    fixed = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (features.shape[1],), generator=fixed).to(features.device)
    parts = [(part.view(torch.int32).long() * weights).sum(dim=1) for part in features.split(ROWS)]
    keys = torch.cat(parts) if parts else features.new_empty(0, dtype=torch.int64)
    order = keys.argsort(stable=True)
    changes = torch.ones(len(order), dtype=torch.int64, device=features.device)
    changes[1:] = keys[order].diff() != 0
    starts = changes.nonzero().flatten()
    firsts = order[starts[changes.cumsum(0) - 1]] if len(order) else order
    candidates = (order != firsts).nonzero().flatten()
    rows, firsts = order[candidates], firsts[candidates]
    same = [
        (features[some] == features[first]).all(dim=1)
        for some, first in zip(rows.split(ROWS), firsts.split(ROWS), strict=True)
    ]
    kept = torch.cat(same) if same else torch.zeros(0, dtype=torch.bool, device=features.device)
    return _Repeats(rows[kept], firsts[kept])


def _without_offset(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Both less the gallery's mean where that dwarfs what differs: |q|^2 + |g|^2 - 2 q g would lose the difference."""
    if not len(gallery):
        return query, gallery
    offset = gallery.mean(dim=0)
    spread = sum(float((part - offset).square().sum()) for part in gallery.split(ROWS)) / len(gallery)
    if not float(offset.square().sum()) > 10 * spread:
        return query, gallery
    return query - offset, gallery - offset


def _squared_lengths(features: Tensor, name: str) -> Tensor:
    """(N,) squared lengths of embeddings; exact where whole numbers are squared, as in a test of ties."""
    parts = [part.square().sum(dim=1) for part in features.split(ROWS)]
    squares = torch.cat(parts) if parts else features.new_empty(0)
    # A quarter of the largest number: then not even the square of a sum of two lengths overflows.
    bad = (~(squares < torch.finfo(torch.float32).max / 4)).nonzero().flatten().tolist()
    if bad:
        where = f"{name}: {len(bad)} of {len(squares)} embeddings"
        if not features[bad[0]].isfinite().all():
            raise ValueError(f"{where} hold NaN or infinity, the first in row {bad[0]}")
        raise DataError(f"{where} are too long for single precision, the first in row {bad[0]}; scale them all down")
    return squares


def _inverse_lengths(squares: Tensor, name: str) -> Tensor:
    zero = (squares < torch.finfo(torch.float32).tiny).nonzero().flatten().tolist()
    if zero:
        raise DataError(
            f"{name}: {len(zero)} of {len(squares)} embeddings have length zero, the first in row {zero[0]}; they have "
            f'no direction to compare; use "metric": "euclidean" or leave them out'
        )
    return squares.rsqrt()
