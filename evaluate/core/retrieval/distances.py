"""Distances between embeddings, at full single precision, a block of queries at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError

Metric = Literal["cosine", "euclidean"]

ROWS = 4096  # embeddings squared at once: the squares take as much memory as the embeddings

LEAST_ROWS = 16
"""Rows multiplied at once, at least; fewer are padded."""
BLOCK_QUERIES = 512
"""Queries in a block on the CPU, at most: with fewer the matrix product is slower, with more no faster."""


class Distances(Protocol):
    """Distances between queries and a gallery, in blocks of rows; the whole (Q, G) matrix is never needed."""

    shape: tuple[int, int]
    """(Q, G)."""
    device: torch.device
    """Where the rows lie."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Distances of queries start..stop: (stop - start, G) float32, finite and nowhere negative.

        The caller may overwrite the result, which is valid until the next call.
        """
        ...


class FeatureDistances:
    """Distances between embeddings.

    Args:
        query: (Q, D) float32 embeddings, need not be of unit length.
        gallery: (G, D) likewise, on the same device.
        metric: "cosine": 1 - cosine of the angle, 0..2; "euclidean": length of the difference.
        is_checked: the caller has checked the embeddings, which waits for a GPU; nothing is raised.

    Raises:
        DataError: an embedding too long for single precision; for "cosine" one of length zero, without direction.
        ValueError: shapes do not fit, or an embedding is not finite.
    """

    def __init__(self, query: Tensor, gallery: Tensor, metric: Metric, *, is_checked: bool = False) -> None:
        if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1] or not query.shape[1]:
            raise ValueError(f"embeddings (Q, D) and (G, D) expected, got {tuple(query.shape)}, {tuple(gallery.shape)}")
        self.shape = (len(query), len(gallery))
        self.device = gallery.device
        self._query, self._gallery = query.float(), gallery.float()
        self._cosine = metric == "cosine"
        if not self._cosine:
            self._query, self._gallery = _without_offset(self._query, self._gallery)
        # The products are scaled by the lengths: unit-length copies of the embeddings would double the memory.
        self._query_square, self._gallery_square = _squared_lengths(self._query), _squared_lengths(self._gallery)
        if not is_checked:
            _check_squares(self._query, self._query_square, metric, "query")
            _check_squares(self._gallery, self._gallery_square, metric, "gallery")
        if self._cosine:
            self._query_scale, self._gallery_scale = self._query_square.rsqrt(), self._gallery_square.rsqrt()
        self._buffer = torch.empty(0)
        self._by_numpy = self.device.type == "cpu" and _numpy_keeps_ties()

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32, as `Distances` says."""
        product = self._product(self._query[start:stop])
        if self._cosine:
            product.mul_(self._query_scale[start:stop, None]).mul_(self._gallery_scale).neg_().add_(1.0)
            return product.clamp_(min=0.0)
        squares = product.mul_(-2.0).add_(self._query_square[start:stop, None]).add_(self._gallery_square)
        return squares.clamp_(min=0.0).sqrt_()

    def _product(self, query: Tensor) -> Tensor:
        """Inner products (R, G), in a buffer that the next block overwrites."""
        num_rows = len(query)
        if num_rows < LEAST_ROWS:
            # Products of a few rows take another path through the library, in which even equal images may differ.
            query = torch.cat([query, query.new_zeros(LEAST_ROWS - num_rows, query.shape[1])])
        if self.device.type != "cpu":
            with full_precision():
                return (query @ self._gallery.T)[:num_rows]
        if len(self._buffer) < len(query):
            self._buffer = torch.empty((len(query), self.shape[1]))
        product = self._buffer[: len(query)]
        # Torch's BLAS is as fast as NumPy's on Intel's processors and half as slow again on others.
        if self._by_numpy:
            # Whether an overflow warns depends on the processor; callers look for numbers that are not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                np.matmul(query.numpy(), self._gallery.numpy().T, out=product.numpy())
        else:
            torch.mm(query, self._gallery.T, out=product)
        return product[:num_rows]


def blocks(distances: Distances, memory: int, bytes_per_pair: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive blocks that cover all queries.

    Args:
        distances: say how many queries there are, and how large the gallery is.
        memory: bytes that one block may take; at least one query is processed at a time.
        bytes_per_pair: bytes the work takes for each query and gallery image, its distance included.
    """
    num_query, num_gallery = distances.shape
    size = max(1, memory // (bytes_per_pair * max(1, num_gallery)))
    if distances.device.type == "cpu":
        size = min(size, BLOCK_QUERIES)
    for start in range(0, num_query, size):
        yield start, min(start + size, num_query)


def check_embeddings(features: Tensor, metric: Metric, name: str) -> None:
    """Check that embeddings (N, D) have distances, as `FeatureDistances` does; `name` is for the message.

    Raises:
        DataError: an embedding too long for single precision; for "cosine" one of length zero, without direction.
        ValueError: an embedding is not finite.
    """
    _check_squares(features, _squared_lengths(features), metric, name)


def check_directions(lengths: Tensor, name: str, advice: str) -> None:
    """Check that embeddings have a direction.

    Args:
        lengths: (N,) float32, their lengths, or the squares if the caller works with these.
        name: of the embeddings, for the message.
        advice: end of the message.

    Raises:
        DataError: an entry of `lengths` is below the smallest normal float32.
    """
    zero = (lengths < torch.finfo(torch.float32).tiny).nonzero().flatten().tolist()
    if zero:
        raise DataError(
            f"{name}: {len(zero)} of {len(lengths)} embeddings have length zero, the first in row {zero[0]}, and no "
            f"direction to compare; {advice}"
        )


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


def _numpy_keeps_ties() -> bool:
    """Whether NumPy's products of equal rows are equal; on some processors its BLAS adds some up in another order."""
    query = np.cos(np.arange(40 * 33, dtype=np.float32)).reshape(40, 33)
    rows = np.tile(np.sin(np.arange(33, dtype=np.float32)), (1000, 1))
    product = query @ rows.T
    return bool((product == product[:, :1]).all())


def _without_offset(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the gallery's mean from both where it dominates: |q|^2 + |g|^2 - 2 q g would cancel the differences."""
    if not len(gallery):
        return query, gallery
    offset = gallery.mean(dim=0)
    spread = sum((part - offset).square().sum().double() for part in gallery.split(ROWS)) / len(gallery)
    # The only value that is read from a GPU.
    if not offset.square().sum().double() > 10 * spread:
        return query, gallery
    return query - offset, gallery - offset


def _squared_lengths(features: Tensor) -> Tensor:
    """(N,) squared lengths of embeddings; exact where whole numbers are squared, as in a test of ties."""
    parts = [part.square().sum(dim=1) for part in features.split(ROWS)]
    return torch.cat(parts) if parts else features.new_empty(0)


def _check_squares(features: Tensor, squares: Tensor, metric: Metric, name: str) -> None:
    """`check_embeddings` of embeddings (N, D) with their squared lengths (N,)."""
    # A quarter of the largest number: then not even the square of a sum of two lengths overflows.
    bad = (~(squares < torch.finfo(torch.float32).max / 4)).nonzero().flatten().tolist()
    if bad:
        where = f"{name}: {len(bad)} of {len(squares)} embeddings"
        if not features[bad[0]].isfinite().all():
            raise ValueError(f"{where} hold NaN or infinity, the first in row {bad[0]}")
        raise DataError(f"{where} are too long for single precision, the first in row {bad[0]}; scale them all down")
    if metric == "cosine":
        check_directions(squares, name, 'use "metric": "euclidean" or leave the images out')
