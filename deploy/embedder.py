"""An exported model where a network is expected: so every evaluation plug-in measures it as it measures any other."""

import numpy as np
import torch
from torch import Tensor, nn

from data.augmentation.normalisation import Normalisation, denormalise
from deploy.networks import EmbeddingNetwork


class ExportedEmbedder(nn.Module):
    """Normalised images (B, 3, H, W) -> embeddings (B, D), not of unit length, by a network that takes raw pixels.

    The pixels are whole numbers again once the normalisation is undone, so nothing is lost on the way; the embeddings
    get their lengths back, on which Euclidean distances and sums of mirror images depend.

    Args:
        network: what computes.
        normalisation: of the images that come in.
    """

    def __init__(self, network: EmbeddingNetwork, normalisation: Normalisation) -> None:
        super().__init__()
        self.exported = network
        self.normalisation: Normalisation = normalisation
        self.branch_dims = network.branch_dims
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> embeddings (B, D) float32."""
        pixels = denormalise(images, self.normalisation).permute(0, 2, 3, 1).cpu().numpy()
        found = self.exported.embed(np.ascontiguousarray(pixels))
        return torch.from_numpy(found.embeddings * found.lengths).to(images.device)
