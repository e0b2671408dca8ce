"""Spectral feature transform: average each embedding with similar ones of the batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import at_least_fp32


def spectral_transform(embeddings: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Weighted mean over the batch: X' = T X, with T the row-wise softmax of cosine similarity / sigma.

    T is one step of a random walk on the graph of the batch: clusters contract. The gradient flows through T, too.

    Args:
        embeddings: X, (P, B, D); each part has its own graph.
        sigma: temperature; towards 0 nothing changes, towards infinity all become their mean.

    Returns:
        X' (P, B, D), at least float32 in every precision, and the mean of the diagonal of T, a scalar.

    Source: Luo et al. 2018, arXiv 1811.11405, section 3.
    """
    # exp(cosine / sigma) with a small sigma needs float32.
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = at_least_fp32(embeddings)
        directions = F.normalize(embeddings, dim=-1)
        transition = (directions @ directions.transpose(-1, -2) / sigma).softmax(-1)
        transformed = transition @ embeddings
    return transformed, transition.detach().diagonal(dim1=-2, dim2=-1).mean()
