"""A network with all that has to happen to an image around it: raw pixels in, an embedding of unit length out."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augmentation.normalisation import STATISTICS, Normalisation
from models.network import ReidNetwork

PIXELS, EMBEDDING, LENGTH = "images", "embedding", "length"
"""Names of what an exported model takes and gives."""
LEAST_LENGTH = 1e-12
"""Divided by at least: an embedding of zeros stays zeros."""


class Exportable(nn.Module):
    """What is exported. Where colours, sizes and normalisation are part of the model, nobody can get them wrong.

    Args:
        network: in eval mode; shared, and copied with `half` only.
        normalisation: of the pixels, as in training.
        layout: of the pixels, "nhwc" or "nchw".
        resize_to: (height, width) that images of any size are brought to, bilinearly with antialiasing as Pillow does,
            rounded to whole values; None: they have the network's size.
        half: whether the network computes in float16; what comes before and after it does not.
    """

    def __init__(
        self,
        network: ReidNetwork,
        normalisation: Normalisation,
        layout: str = "nhwc",
        resize_to: tuple[int, int] | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        # Each by itself, and the method as a method: torch writes Python code that names every module on the way to a
        # weight, and `network.branches.global` is no Python.
        network = copy.deepcopy(network).half() if half else network
        self.modules_used = nn.ModuleList([network.backbone, *network.heads()])
        self.embed = network.embed
        self.layout, self.resize_to, self.half_precision = layout, resize_to, half
        means, deviations = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS[normalisation])
        self.scale = nn.Buffer(1 / (255 * deviations), persistent=False)
        self.shift = nn.Buffer(-means / deviations, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB images (B, H, W, 3) or (B, 3, H, W), as the layout says -> embeddings (B, D) of unit length, and
        the lengths (B, 1) that they had before; both float32.
        """
        pixels = (images.permute(0, 3, 1, 2) if self.layout == "nhwc" else images).float()
        if self.resize_to is not None:
            resized = F.interpolate(pixels, self.resize_to, mode="bilinear", align_corners=False, antialias=True)
            pixels = resized.round().clamp(0, 255)
        normalised = pixels * self.scale + self.shift
        embeddings = self.embed(normalised.half() if self.half_precision else normalised).float()
        lengths = embeddings.norm(dim=1, keepdim=True)
        return embeddings / lengths.clamp_min(LEAST_LENGTH), lengths
