"""SOLIDER's Swin Transformers, fine-tuned for re-ID, and what it trains before.

Source: Chen et al. 2023, arXiv 2303.17602, and SOLIDER-REID's code: make_model.py, swin_transformer.py, run.sh and the
configurations swin_tiny.yml to swin_base.yml.
"""

import re
from collections.abc import Collection
from typing import Any

from torch import Tensor

from models.importers.weights import ForeignWeights, Imported
from utils.errors import DataError

LOOKS_LIKE = "a Swin Transformer of SOLIDER"
ATTENTION = "stages.0.blocks.0.attn.w_msa.qkv.weight"
"""A name that no other framework's Swin Transformer has."""
MODELS = {
    (96, 6): "timm:swin_tiny_patch4_window7_224",
    (96, 18): "timm:swin_small_patch4_window7_224",
    (128, 18): "timm:swin_base_patch4_window7_224",
}
"""Channels of the first stage and blocks of the third."""
SEMANTIC_WEIGHT = 0.2


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is one of SOLIDER-REID's."""
    return f"base.{ATTENTION}" in names


def translate(weights: ForeignWeights) -> Imported:
    """SOLIDER compares cosines of the pooled map before the batch normalisation.

    Raises:
        DataError: it is a network that is not supported.
    """
    channels, depth = len(weights.left["base.patch_embed.projection.weight"]), weights.count("base.stages.2.blocks.")
    model = MODELS.get((channels, depth))
    if model is None:
        raise DataError(
            f"a Swin Transformer of {channels} channels with {depth} blocks in its third stage; supported "
            "are tiny (96 and 6), small (96 and 18) and base (128 and 18)"
        )
    options: dict[str, Any] = {"model": model, "last_conv_stride": 2, "part_pooling": "avg", "feature_dim": 0}
    if weights.has("base.semantic_embed_w."):
        options["semantic_weight"] = SEMANTIC_WEIGHT
        weights.assumed.append(f"model_params.semantic_weight is {SEMANTIC_WEIGHT}, as in SOLIDER's experiments")
    move_swin(weights, "base.")
    if weights.has("fcneck."):
        weights.move_reductions(["fcneck.weight"], "branches.global.reduction")
        options["feature_dim"] = weights.own["branches.global.reduction"].shape[2]
    weights.move_norms(["bottleneck"], "branches.global.bn")
    weights.drop("classifier.")
    weights.assumed += [
        "images are of 384 x 128, as in SOLIDER's configurations",
        "mean and standard deviation are 0.5, as there",
    ]
    return weights.imported(
        {
            "img_h": 384,
            "img_w": 128,
            "data_augmentation": {"normalisation": "half", "interpolation": "bilinear"},
            "model_params": {**options, "neck": "bnneck", "retrieval_of": "features"},
            "evaluation_params": {"type": "market_evaluate", "metric": "cosine"},
        }
    )


def move_swin(weights: ForeignWeights, prefix: str) -> None:
    """Move the backbone, whose stages end with the merging of patches with which timm's begin.

    Left out are the index of relative positions, which timm computes, the norms of the lower stages and the semantic
    layer of the last, which belong to no embedding.
    """
    unused = [name for name in weights.left if name.endswith("relative_position_index")]
    unused += [f"{prefix}norm{stage}." for stage in (0, 1, 2)]
    weights.drop(*unused, f"{prefix}semantic_embed_w.3.", f"{prefix}semantic_embed_b.3.")
    weights.move(f"{prefix}norm3.", "backbone.norm.")
    weights.move(f"{prefix}patch_embed.projection.", "backbone.patch_embed.proj.")
    weights.move(f"{prefix}patch_embed.norm.", "backbone.patch_embed.norm.")
    for kind, own in (("w", "scale"), ("b", "shift")):
        for stage in (0, 1, 2):
            name = f"backbone.layers.{stage + 1}.downsample.semantic.{own}_"
            weights.move(f"{prefix}semantic_embed_{kind}.{stage}.", name)
    for stage in (0, 1, 2):
        own = f"backbone.layers.{stage + 1}.downsample."
        weights.move(f"{prefix}stages.{stage}.downsample.", own)
        for name in [name for name in weights.own if name.startswith(own) and ".semantic." not in name]:
            weights.own[name] = _reordered(weights.own[name])
    weights.move(f"{prefix}stages.", "backbone.layers.", _own_name)


def _reordered(tensor: Tensor) -> Tensor:
    """(..., C * 4), the four merged patches within each channel -> (..., 4 * C), columns before rows as in timm."""
    each = tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return each.transpose(-1, -2).flatten(-2)


def _own_name(name: str) -> str:
    """What follows "stages." -> what follows "layers." in timm."""
    name = name.replace(".attn.w_msa.", ".attn.").replace(".ffn.layers.0.0.", ".mlp.fc1.")
    return re.sub(r"\.ffn\.layers\.1\.", ".mlp.fc2.", name)
