"""Spectral feature transform: within a batch, each image is seen together with the images like it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import at_least_fp32


def spectral_transform(embeddings: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Replace each embedding by a mean over the batch, in which similar ones weigh more: X' = T X.

    T is the row-wise softmax of cosine similarity / sigma: one step of a random walk on the graph of the batch. Images
    of one identity that lie in a cluster come closer together; the gradient also flows through T, and so asks for such
    clusters.

    Args:
        embeddings: X, (P, B, D); each part has a graph of its own.
        sigma: temperature; towards 0 each image keeps its own embedding, the larger, the nearer all come to their mean.

    Returns:
        X' (P, B, D), and the mean of T's diagonal, a scalar: the share that images have in their own transform.

    Source: Luo et al. 2018, arXiv 1811.11405, section 3.
    """
    # In half precision exp(cosine / sigma) has too few digits for a small sigma.
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = F.normalize(at_least_fp32(embeddings), dim=-1)
        transition = (directions @ directions.transpose(-1, -2) / sigma).softmax(-1)
    share = transition.detach().diagonal(dim1=-2, dim2=-1).mean()
    return transition.to(embeddings.dtype) @ embeddings, share
