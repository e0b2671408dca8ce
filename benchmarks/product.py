"""The bare product of query and gallery embeddings: what any exact evaluation has to spend."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evaluate.core.retrieval.distances import full_precision

PRODUCT_ROWS = 512
"""Queries in a block; more are no faster."""


def bare_products(query: Tensor, gallery: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ways to multiply (Q, D) with (G, D) transposed, at full precision.

    Returns:
        By name: "LIBRARY, blocks" fills a buffer of a few rows again and again, "LIBRARY, whole" the (Q, G) matrix.
        Each returns what it has filled.
    """

    def by_torch(rows: int) -> Tensor:
        with full_precision():
            buffer = torch.empty(rows, len(gallery), device=query.device)
            for block in query.split(rows):
                torch.mm(block, gallery.T, out=buffer[: len(block)])
        return buffer

    def by_numpy(rows: int) -> Tensor:
        buffer = np.empty((rows, len(gallery)), np.float32)
        for block in query.split(rows):
            np.matmul(block.numpy(), gallery.numpy().T, out=buffer[: len(block)])
        return torch.from_numpy(buffer)

    libraries = {"torch": by_torch} if query.device.type == "cuda" else {"numpy": by_numpy, "torch": by_torch}
    rows_of = {"blocks": PRODUCT_ROWS, "whole": len(query)}
    return {
        f"{library}, {kind}": lambda multiply=multiply, rows=rows: multiply(rows)
        for library, multiply in libraries.items()
        for kind, rows in rows_of.items()
    }
