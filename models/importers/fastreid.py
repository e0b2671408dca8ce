"""fast-reid's BoT, AGW, SBS and MGN on ResNets.

Source: He et al. 2020, arXiv 2006.02631, and its code: resnet.py, non_local.py, embedding_head.py, mgn.py and the
configurations Base-bagtricks, Base-AGW, Base-SBS and Base-MGN.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from models.importers.resnet import resnet_options
from models.importers.weights import ForeignWeights, Imported
from utils.errors import DataError

LOOKS_LIKE = "a network of fast-reid"
OTHERS = {
    "backbone.conv1.0.": "ResNeSt",
    "backbone.s1.": "RegNet",
    "backbone.blocks.": "vision transformer",
    "backbone.conv1.conv.": "OSNet",
    "backbone.stage1.": "RepVGG",
    "backbone.features.": "MobileNet or ShuffleNet",
}
"""How names of backbones start that are not supported."""
MGN = {
    "global": ("b1_head",),
    "global2": ("b2_head",),
    "parts2": ("b21_head", "b22_head"),
    "global3": ("b3_head",),
    "parts3": ("b31_head", "b32_head", "b33_head"),
}
"""fast-reid's names for the parts of the branches. It concatenates them in another order: global ones first."""


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is one of fast-reid's."""
    return any(name.startswith(("heads.", "b1_head.")) for name in names)


def translate(weights: ForeignWeights) -> Imported:
    """fast-reid compares cosines of what its batch normalisation returns.

    Raises:
        DataError: it is a network that is not supported.
    """
    if kind := next((kind for start, kind in OTHERS.items() if weights.has(start)), None):
        raise DataError(f"a {kind} of fast-reid, which is not supported; supported are its ResNets")
    _check_pixels(weights)
    is_mgn = weights.has("b1_head.")
    options = _mgn_backbone(weights) if is_mgn else _backbone(weights)
    heads = MGN if is_mgn else {"global": ("heads",)}
    is_sbs = is_mgn or "heads.pool_layer.p" in weights.left
    pooling = _pooling(weights, f"{heads['global'][0]}.pool_layer.p", non_local=options.get("non_local", False))
    if is_mgn:
        options |= {"head": "mgn", "global_pooling": pooling}
    parts_pooling = "gem_each" if is_mgn and pooling == "gem" else pooling
    for branch, names in heads.items():
        options |= _head(weights, branch, names, parts_pooling if len(names) > 1 else pooling)
    options["part_pooling"] = parts_pooling
    if is_sbs:
        options |= {"classifier": "cosine", "cosine_scale": 64.0}
    weights.assumed += [
        f"img_h is {384 if is_sbs else 256}, as in fast-reid's configurations of {'SBS and MGN' if is_sbs else 'BoT'}",
        "model_params.last_conv_stride is 1, as in all of them",
    ]
    return weights.imported(
        {
            "img_h": 384 if is_sbs else 256,
            "img_w": 128,
            "data_augmentation": {"normalisation": "imagenet", "interpolation": "bicubic"},
            "model_params": {**options, "resnet_variant": "fastreid", "last_conv_stride": 1},
            "evaluation_params": {"type": "market_evaluate", "metric": "cosine"},
        }
    )


def _check_pixels(weights: ForeignWeights) -> None:
    """Older versions keep the normalisation in the file: that of ImageNet, for RGB pixels in 0..255."""
    for name, expected in (("pixel_mean", (0.485, 0.456, 0.406)), ("pixel_std", (0.229, 0.224, 0.225))):
        if name not in weights.left:
            continue
        found = weights.left[name].flatten().tolist()
        if not all(abs(value - 255 * known) < 0.1 for value, known in zip(found, expected, strict=True)):
            raise DataError(f"{name} is {found}, which is not that of ImageNet; only that is supported")
        weights.drop(name)


def _backbone(weights: ForeignWeights) -> dict[str, Any]:
    """Move a whole ResNet; its settings."""
    options = resnet_options(weights, [f"backbone.layer{stage}." for stage in (1, 2, 3, 4)])
    options["non_local"] = weights.has("backbone.NL_")
    for stage in (2, 3):
        blocks, number = (weights.count(f"backbone.{kind}{stage}.") for kind in ("layer", "NL_"))
        for index in range(number):
            place = blocks - number + index
            _non_local(weights, f"backbone.NL_{stage}.{index}", f"backbone.layer{stage}.non_local_{place}")
    weights.move("backbone.", "backbone.")
    return options


def _non_local(weights: ForeignWeights, name: str, own: str) -> None:
    """Its last convolution has a bias, which is subtracted from the mean of the normalisation after it."""
    for layer in ("theta", "phi", "g"):
        weights.move(f"{name}.{layer}.", f"{own}.{layer}.")
    inner = weights.own[f"{own}.g.weight"].shape[0]
    if inner != 1:
        raise DataError(f"non-local blocks with {inner} inner channels; fast-reid's have 1, and no other is supported")
    weights.own[f"{own}.W.weight"] = weights.take(f"{name}.W.0.weight")
    weights.move_norms([f"{name}.W.1"], f"{own}.bn", weights.take(f"{name}.W.0.bias"))


def _mgn_backbone(weights: ForeignWeights) -> dict[str, Any]:
    """Move what the branches share, a sequence of layers, and what each has for itself; the settings of the ResNet."""
    options = resnet_options(weights, ["backbone.4.", "backbone.5.", "b1.0.", "b1.1."], others=1)
    for place, name in {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3.0"}.items():
        weights.move(f"backbone.{place}.", f"backbone.{name}.")
    for number, copy in ((1, ""), (2, "_branch2"), (3, "_branch3")):
        for block in range(weights.count(f"b{number}.0.")):
            name = f"layer3_{block + 1}{copy}" if copy else f"layer3.{block + 1}"
            weights.move(f"b{number}.0.{block}.", f"backbone.{name}.")
        weights.move(f"b{number}.1.", f"backbone.layer4{copy}.")
    return options


def _pooling(weights: ForeignWeights, powers: str, *, non_local: bool) -> str:
    """Which pooling the file is for: it holds the powers of generalised means only where they were trained."""
    if powers in weights.left:
        return "gem"
    known = ("gem", "AGW's: a mean of power 3", "has") if non_local else ("avg", "BoT's", "has no")
    weights.assumed.append(f"the pooling is {known[1]}, as the network {known[2]} non-local blocks")
    return known[0]


def _head(weights: ForeignWeights, branch: str, names: Sequence[str], pooling: str) -> dict[str, Any]:
    """Move pooling, reduction and normalisation of the parts of a branch; their settings."""
    own = f"branches.{branch}"
    if pooling != "avg":
        powers = [f"{name}.pool_layer.p" for name in names]
        each = torch.cat([weights.take(name) if name in weights.left else torch.tensor([3.0]) for name in powers])
        weights.own[f"{own}.pooling.power"] = each[0] if pooling == "gem" else each[:, None]
    first, norm = (f"{names[0]}.bottleneck.{place}.weight" for place in (0, 1))
    options: dict[str, Any] = {"feature_dim": 0, "neck": "none"}
    if first in weights.left and weights.left[first].dim() == 4:
        options["feature_dim"] = len(weights.left[first])
        weights.move_reductions([f"{name}.bottleneck.0.weight" for name in names], f"{own}.reduction")
        found = "bottleneck.1" if norm in weights.left else None
    else:
        # Of older versions the second.
        found = next((name for name in ("bottleneck.0", "bnneck") if f"{names[0]}.{name}.weight" in weights.left), None)
    if found is not None:
        options["neck"] = "bnneck"
        weights.move_norms([f"{name}.{found}" for name in names], f"{own}.bn")
    weights.drop(*(f"{name}.{classifier}" for name in names for classifier in ("weight", "classifier.")))
    return options
