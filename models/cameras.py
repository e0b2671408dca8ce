"""Embeddings of the cameras that a network was trained with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CAMIDS = "camids"
"""Name of the buffer."""


class CameraEmbedding(nn.Module):
    """A learnable vector for each camera of the training set: the side information embedding (SIE) of TransReID.

    The identifiers of the cameras are part of the state dict. The vector of any other camera is the mean of theirs.

    Args:
        camids: of the cameras of the training set.
        dim: C.
        factor: lambda, of the vectors.

    Source: He et al. 2021, arXiv 2102.04378, section 3.3; the authors' vit_pytorch.py (initialisation).
    """

    camids: Tensor
    """(K,) int64."""

    def __init__(self, camids: Sequence[int], dim: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.empty(len(camids), dim))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.register_buffer(CAMIDS, torch.tensor(camids, dtype=torch.int64))

    def forward(self, camids: Tensor | None) -> Tensor:
        """Cameras (B,) int64 -> their vectors times lambda (B, 1, C); None -> that of an unknown camera (1, 1, C)."""
        mean = self.weight.mean(0)
        if camids is None:
            return self.factor * mean[None, None]
        is_camera = camids[:, None] == self.camids
        # Neither indexing, whose gradient is not deterministic on a GPU, nor a matrix product, which autocast rounds.
        vectors = torch.where(is_camera[..., None], self.weight, 0.0).sum(1)
        return self.factor * torch.where(is_camera.any(1, keepdim=True), vectors, mean)[:, None]
