"""Distances between embeddings, at full single precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.distances import squared_euclidean

Metric = Literal["cosine", "euclidean"]


def prepared(features: Tensor, metric: Metric) -> Tensor:
    """Embeddings (N, D) as `pairwise_distance` takes them: float32, for "cosine" of unit length.

    A step of its own, because a gallery meets many chunks of queries and need be prepared only once.
    """
    return F.normalize(features.float()) if metric == "cosine" else features.float()


def pairwise_distance(query: Tensor, gallery: Tensor, metric: Metric) -> Tensor:
    """Distance of every query to every gallery image.

    Args:
        query: (Q, D) float32 embeddings, `prepared` for the metric.
        gallery: (G, D) likewise.
        metric: "cosine": 1 - cosine of the angle, 0..2; "euclidean": length of the difference.

    Returns:
        (Q, G) float32, nowhere negative.
    """
    if metric == "cosine":
        with full_precision():
            return (1.0 - query @ gallery.T).clamp_(min=0.0)
    if metric == "euclidean":
        with full_precision():
            return squared_euclidean(query, gallery).sqrt_()
    raise ValueError(f"metric: unknown metric {metric!r}; allowed: cosine, euclidean")


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
