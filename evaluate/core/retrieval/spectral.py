"""Spectral re-ranking: each query's nearest gallery images are re-ordered by smoothed embeddings."""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluate.core.retrieval.distances import Distances, check_directions, full_precision
from evaluate.core.retrieval.topk import first_columns
from utils.errors import DataError

NEAR_BYTES = 2**28
"""Maximum bytes of nearest embeddings, transformed ones and weights in memory; at least one query is processed."""
SMALLEST = 2.0**-149
"""The float32 next to zero."""


class SpectralDistances:
    """Distances after the spectral feature transform of each query's nearest gallery images.

    The n nearest of a query are the nodes of a graph. Their embeddings F (n, D), of unit length, become
    softmax(F F^T / temperature) F: each moves towards similar ones, so that images of one person cluster. The n are
    ordered by the cosine between the query and the transformed embeddings, equal ones as before.

    The n distances are permuted, the smallest to the best image; all others are unchanged. Where some of the n are
    equal, or the last equals that of the next image, they are moved apart by the smallest float32 steps, downwards
    where possible, so that the new order does not depend on the gallery index. Without ties no value changes.

    Args:
        base: distances of Q queries to G gallery images, of any kind.
        query: (Q, D) float32 embeddings, on the device of `base`.
        gallery: (G, D) likewise.
        top: n; a smaller gallery is re-ranked as a whole.
        temperature: of the softmax; the lower, the less dissimilar images contribute.
        memory: bytes that temporary results may take.

    Raises:
        DataError: an embedding has length zero, or a single query takes more than `memory`.

    Source: Luo, Chen, Wang, Zhang 2018, Spectral Feature Transformation for Person Re-identification.
    """

    def __init__(
        self,
        base: Distances,
        query: Tensor,
        gallery: Tensor,
        top: int = 50,
        temperature: float = 0.1,
        memory: int = 2**30,
    ) -> None:
        top = min(top, len(gallery))
        # Per query: three times its n nearest embeddings (n, D), twice their products (n, n).
        self._bytes_per_query = max(1, 4 * (3 * top * gallery.shape[1] + 2 * top * top))
        if self._bytes_per_query > memory:
            raise DataError(
                f"spectral re-ranking: the {top} nearest images of one query take "
                f"{ceil(self._bytes_per_query / 2**20)} MiB, got {memory // 2**20} MiB; "
                "lower spectral.top or raise memory_mb"
            )
        for name, part in (("query", query), ("gallery", gallery)):
            lengths = torch.linalg.vector_norm(part, dim=1)
            check_directions(lengths, name, "leave the images out or turn spectral re-ranking off")
        self.shape = base.shape
        self.device = base.device
        self._base, self._query, self._gallery = base, query, gallery
        self._top, self._temperature, self._memory = top, temperature, memory

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32, as `Distances` says."""
        distance = self._base.rows(start, stop)
        order = first_columns(distance, min(self._top + 1, self.shape[1]))
        size = max(1, min(self._memory, NEAR_BYTES) // self._bytes_per_query)
        parts = zip(self._query[start:stop].split(size), order[:, : self._top].split(size), strict=True)
        scores = [spectral_scores(query, self._gallery[columns], self._temperature) for query, columns in parts]
        share_out_(distance, order, torch.cat(scores))
        return distance


def spectral_scores(query: Tensor, near: Tensor, temperature: float) -> Tensor:
    """Cosine between each query and its nearest gallery images after the spectral feature transform.

    The authors' code takes inner products, and so prefers images that resemble many others.

    Args:
        query: (R, D) float32 embeddings, none of length zero.
        near: (R, n, D) likewise, the nearest of each.
        temperature: of the softmax, positive.

    Returns:
        (R, n), the higher the nearer.
    """
    query, near = F.normalize(query, dim=1, eps=0.0), F.normalize(near, dim=2, eps=0.0)
    with full_precision():
        weights = torch.softmax(near @ near.transpose(1, 2) / temperature, dim=2)
        transformed = F.normalize(weights @ near, dim=2)
        return (transformed @ query[:, :, None]).squeeze(2)


def share_out_(distance: Tensor, order: Tensor, scores: Tensor) -> None:
    """Give the nearest images of each row their own distances in another order, that of their scores.

    Args:
        distance: (R, G) float32, finite and nowhere negative; changed in place.
        order: (R, n + 1) int64, the nearest columns of each row, nearest first; (R, n) where n is the whole gallery.
        scores: (R, n), of the first n; the highest gets the least distance, equal ones stay in order.
    """
    num = scores.shape[1]
    reordered = order[:, :num].gather(1, scores.argsort(dim=1, descending=True, stable=True))
    place = torch.arange(order.shape[1], device=distance.device)
    # Non-negative floats order like their bits, and neighbouring floats are neighbouring whole numbers.
    # + 0.0 turns -0.0, whose bits are those of a negative number, into 0.0.
    bits = (distance.gather(1, order) + 0.0).view(torch.int32)
    # Strictly ascending, nowhere above `bits`, and the largest numbers that are both; then not below 0, 1, 2, ...
    apart = (bits - place).flip(1).cummin(dim=1).values.flip(1).clamp_(min=0) + place
    # More than n images at distance zero leave no room below the rest, so that the rest has to make some.
    distance.clamp_(min=num * SMALLEST)
    distance.scatter_(1, torch.cat([reordered, order[:, num:]], dim=1), apart.int().view(torch.float32))
