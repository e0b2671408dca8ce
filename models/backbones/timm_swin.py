"""Swin Transformers of timm."""

from typing import Any

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

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
        semantic_weight: of the layers that SOLIDER's weights have after each merging of patches; None: there are none.
            Maps are then also padded to whole windows before they are shifted, and not after, as in SOLIDER.

    Source: Liu et al. 2021, arXiv 2103.14030.
    """

    def __init__(
        self, name: str, image_size: tuple[int, int], drop_path: float = 0.0, semantic_weight: float | None = None
    ) -> None:
        whole: Any = create_model(name, img_size=image_size, always_partition=True, drop_path_rate=drop_path)
        *lower, last = (f"layers.{number}" for number in range(len(whole.layers)))
        stages = ("patch_embed",), *((layer,) for layer in lower), (last, "norm")
        super().__init__(name, whole.num_features, stages)
        self.patch_embed: nn.Module = whole.patch_embed
        self.layers: nn.Module = whole.layers
        self.norm: nn.Module = whole.norm
        for merging in [module for module in self.modules() if isinstance(module, PatchMerging)]:
            if semantic_weight is not None:
                merging.__class__ = SemanticMerging
                merging.semantic = SemanticLayer(merging.out_dim, semantic_weight)
        for block in [module for module in self.modules() if isinstance(module, SwinTransformerBlock)]:
            if semantic_weight is not None:
                block.__class__ = PaddedBlock

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return super().forward(images).permute(0, 3, 1, 2)

    def maps(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C, h, w): that of `forward`, and one of each copy."""
        return tuple(feature_map.permute(0, 3, 1, 2) for feature_map in super().maps(images, camids))


class PaddedBlock(SwinTransformerBlock):
    """A block that pads its map to whole windows before it is shifted, as mmdetection's, which SOLIDER has."""

    def _attn(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        rows, columns = x.shape[1:3]
        height, width = self.window_size
        return super()._attn(F.pad(x, (0, 0, 0, -columns % width, 0, -rows % height)))[:, :rows, :columns]


class SemanticMerging(PatchMerging):
    """A merging of patches, and a semantic layer of its result."""

    semantic: "SemanticLayer"

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, D)."""
        return self.semantic(super().forward(x))


class SemanticLayer(nn.Module):
    """Scales and shifts channels by amounts that SOLIDER has learnt as functions of a weight.

    The weight is high for tasks that need semantics, such as parsing, and low for those of appearance, such as re-ID.
    The functions are not trained, as in the authors' fine-tuning.

    Args:
        dim: C.
        weight: between 0 and 1.

    Source: Chen et al. 2023, arXiv 2303.17602, section 3.3; SOLIDER-REID's swin_transformer.py.
    """

    def __init__(self, dim: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        for name in ("scale", "shift"):
            self.register_buffer(f"{name}_weight", nn.init.trunc_normal_(torch.empty(dim, 2), std=0.02))
            self.register_buffer(f"{name}_bias", torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        return features * F.softplus(self._amounts("scale")) + self._amounts("shift")

    def _amounts(self, name: str) -> Tensor:
        """A linear function of (weight, 1 - weight): (C,)."""
        slopes, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
        return self.weight * slopes[:, 0] + (1 - self.weight) * slopes[:, 1] + bias
