"""The heads of several branches: MGN and LightMBN, with last stages of their own, CLIP-ReID's baseline, and JPM."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.backbones.registry import OSNETS
from models.erasing import TopDropBlock
from models.heads import BranchHead
from models.network import build_head
from models.options import HEADS, ModelParams
from models.outputs import GLOBAL, PENULTIMATE
from models.pooling import StripePooling, pool_stripes

DROPPED_ROWS = 0.33
"""Share of the rows that LightMBN's drop block sets to zero."""


class ChannelPooling(nn.Module):
    """A map pooled as a whole, cut into two halves of its channels, each mapped to D by the same layers.

    Args:
        in_channels: C of the map.
        dim: D.
        pooling: average or maximum.

    Source: Herzog et al. 2021, arXiv 2101.10774, section 3 (channel branch).
    """

    def __init__(self, in_channels: int, dim: int, pooling: Literal["avg", "max"]) -> None:
        super().__init__()
        self.pooling: Literal["avg", "max"] = pooling
        self.reduction = nn.Linear(in_channels // 2, dim, bias=False)
        self.bn = nn.BatchNorm1d(dim)
        nn.init.kaiming_normal_(self.reduction.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (2, B, D)."""
        pooled = pool_stripes(feature_map, 1, self.pooling)[0]
        halves = self.reduction(pooled.unflatten(1, (2, -1)).transpose(0, 1))
        # One after another, as published: each half has its own mean and variance of the batch.
        return torch.stack([self.bn(half) for half in halves]).relu()


Branches = tuple[dict[str, BranchHead], dict[str, int]]
"""Heads by name, and which of the backbone's maps each sees."""


def build_branches(options: ModelParams, backbone: Backbone, num_classes: int) -> Branches:
    """The branches of `options.head`, which may add to the backbone what they see."""
    builders = {"mgn": build_mgn, "lightmbn": build_lightmbn, "clip": build_clip, "jpm": build_jpm}
    return builders[options.head](options, backbone, num_classes)


def build_mgn(options: ModelParams, backbone: Backbone, num_classes: int) -> Branches:
    """MGN: a branch with a global feature, and two with a global feature and two or three stripes.

    The branches share the backbone as `split_in_three` says. Retrieval concatenates their eight features of
    `feature_dim`. Where code and paper differ, this is fast-reid's MGN: batch normalisation without ReLU after the
    reduction, and classifiers of its result. There the stripes of a branch have a power of generalised-mean pooling
    each, which is `part_pooling` "gem_each" here.

    Source: Wang et al. 2018, arXiv 1804.01438, section 3; fast-reid's mgn.py.
    """
    split_in_three(backbone)
    head = partial(build_head, options, backbone.out_channels, dim=options.feature_dim, num_classes=num_classes)
    branches = {
        GLOBAL: head(1, is_global=True),
        "global2": head(1, is_global=True),
        "parts2": head(2, is_global=False),
        "global3": head(1, is_global=True),
        "parts3": head(3, is_global=False),
    }
    return branches, {GLOBAL: 0, "global2": 1, "parts2": 1, "global3": 2, "parts3": 2}


def build_lightmbn(options: ModelParams, backbone: Backbone, num_classes: int) -> Branches:
    """LightMBN: seven features of `feature_dim` of three branches.

    The branches share the backbone as `split_in_three` says. In the first another block follows; its map is pooled
    twice, whole and through a Top-DropBlock. The second has a global feature and two stripes, the third the two halves
    of the channels. Pooling is as in the authors' code: average for the stripes (`part_pooling`), maximum
    (`global_pooling`) for the others, but average for the first and for the channels on an OSNet.

    Source: Herzog et al. 2021, arXiv 2101.10774, and the authors' lmbn_n.py (OSNet) and lmbn_r.py (ResNet).
    """
    split_in_three(backbone)
    backbone.add_block("bottleneck")
    channels, dim = backbone.out_channels, options.feature_dim
    head = partial(build_head, options, num_classes=num_classes)
    whole = partial(head, channels, 1, dim, is_global=True)
    is_osnet = options.model in OSNETS
    drop = nn.Sequential(TopDropBlock(DROPPED_ROWS), StripePooling(1, options.global_pooling))
    halves = ChannelPooling(channels, dim, "avg" if is_osnet else "max")
    branches = {
        GLOBAL: whole(pooling="avg" if is_osnet else None),
        "drop": whole(pooling=drop),
        "global2": whole(),
        "parts2": head(channels, 2, dim, is_global=False),
        "channels": head(dim, 2, 0, is_global=False, pooling=halves),
    }
    return branches, {GLOBAL: 0, "drop": 0, "global2": 1, "parts2": 1, "channels": 2}


def split_in_three(backbone: Backbone) -> None:
    """Let three branches share the backbone up to the first block of its last stage but one.

    Each has the rest for itself, as copies that start with the same weights. The last stage of the first branch has
    `last_conv_stride`, those of the others stride 1.
    """
    backbone.split_early()
    for branch in ("branch2", "branch3"):
        backbone.add_copy(branch)
    for name in (name for copies in backbone.copies for name in copies):
        for module in backbone.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)


def build_clip(options: ModelParams, backbone: Backbone, num_classes: int) -> Branches:
    """CLIP-ReID's baseline: the class token and its projection to `feature_dim`, in CLIP that to the space of texts.

    Losses also see the class token before the last block.

    Source: Li et al. 2022, arXiv 2211.13977, section 4.1 (baseline), and the authors' make_model.py.
    """
    backbone.add_projection(options.feature_dim)
    sizes = {GLOBAL: backbone.out_channels, "projected": options.feature_dim}
    heads = {
        name: build_head(options, size, 1, 0, num_classes, is_global=True, pooling="avg")
        for name, size in sizes.items()
    }
    return heads, {PENULTIMATE: -3, "projected": -2, GLOBAL: -1}


def build_jpm(options: ModelParams, backbone: Backbone, num_classes: int) -> Branches:
    """TransReID's jigsaw patch module: a global branch and four parts.

    The global branch sees the class token; the four parts are class tokens that have seen a quarter of the rearranged
    patches each (`models/backbones/jigsaw.py`). Retrieval compares the parts with a quarter of their length.

    Raises:
        BackboneError: the backbone has no class token, or too few patches.

    Source: He et al. 2021, arXiv 2102.04378, section 3.2, and the authors' make_model.py.
    """
    (whole, _), (parts, number) = HEADS["jpm"].items()
    backbone.add_jigsaw(number)
    # The rows of the maps are single tokens, so there is nothing to pool.
    head = partial(build_head, options, backbone.out_channels, dim=options.feature_dim, num_classes=num_classes)
    branches = {
        whole: head(1, is_global=True, pooling="avg"),
        parts: head(number, is_global=False, pooling="avg", retrieval_scale=1 / number),
    }
    return branches, {whole: 1, parts: 2}
