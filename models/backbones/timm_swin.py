"""Swin Transformers of timm."""

from typing import Any

from torch import Tensor, nn

from models.backbones.from_timm import FromTimm
from models.backbones.timm_stages import create_model

MODULE = "swin_transformer"
"""Module of timm whose models are built here."""


class SwinTransformer(FromTimm):
    """A Swin Transformer of timm without classifier; parameter names are timm's.

    The map is that after the final norm, which belongs to the last stage; there is no class token. Windows have the
    same size for all images, and maps are padded to whole windows, so that weights fit images of every size.

    Args:
        name: as timm knows it, such as "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k".
        image_size: height and width of the images.
        drop_path: rate of stochastic depth of the last block; the others' rise to it linearly.

    Source: Liu et al. 2021, arXiv 2103.14030.
    """

    def __init__(self, name: str, image_size: tuple[int, int], drop_path: float = 0.0) -> None:
        whole: Any = create_model(name, img_size=image_size, always_partition=True, drop_path_rate=drop_path)
        *lower, last = (f"layers.{number}" for number in range(len(whole.layers)))
        stages = ("patch_embed",), *((layer,) for layer in lower), (last, "norm")
        super().__init__(name, whole.num_features, stages)
        self.patch_embed: nn.Module = whole.patch_embed
        self.layers: nn.Module = whole.layers
        self.norm: nn.Module = whole.norm

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return super().forward(images).permute(0, 3, 1, 2)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C, h, w): that of `forward`, and one of each copy."""
        return tuple(feature_map.permute(0, 3, 1, 2) for feature_map in super().maps(images))
