"""TransReID's vision transformers.

Source: He et al. 2021, arXiv 2102.04378, and its code: make_model.py, vit_pytorch.py and the
configurations vit_base.yml.
"""

from collections.abc import Collection
from typing import Any

import torch

from models.importers.weights import ForeignWeights, Imported
from utils.errors import DataError

LOOKS_LIKE = "a vision transformer of TransReID"
MODELS = {(768, 12): "timm:vit_base_patch16_224", (384, 12): "timm:vit_small_patch16_224"}
"""Size of a token and number of blocks of each."""
PATCH = 16
SIE_FACTOR = 3.0
PARTS = (1, 2, 3, 4)
"""Of JPM."""
SIZES = ((256, 128), (384, 128), (256, 256), (224, 224))
"""Height and width of the images that it is trained with."""


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is one of TransReID's."""
    return "base.cls_token" in names


def translate(weights: ForeignWeights) -> Imported:
    """TransReID compares cosines of the class token before the batch normalisation, with JPM also those of parts.

    Raises:
        DataError: it is a network that is not supported.
    """
    size, depth = weights.left["base.cls_token"].shape[2], weights.count("base.blocks.")
    model = MODELS.get((size, depth))
    if model is None:
        raise DataError(
            f"a transformer of {depth} blocks with tokens of {size}; supported are ViT-B (12 of 768) and DeiT-S or "
            "ViT-S (12 of 384), and not TransReID's own ViT-S of 8 blocks, which timm no longer has"
        )
    options: dict[str, Any] = {"model": model, "feature_dim": 0, "neck": "bnneck", "retrieval_of": "features"}
    params = grid_settings(weights, weights.left["base.pos_embed"].shape[1] - 1)
    # The classifier of ImageNet, and those of identities.
    weights.drop("base.fc.", "classifier.")
    if weights.has("base.sie_embed"):
        options["camera_embedding"] = SIE_FACTOR
        params["evaluation_params"]["same_cameras"] = True
        _move_cameras(weights)
    if weights.has("b1."):
        options["head"] = "jpm"
        _move_jpm(weights, depth - 1)
    weights.move("base.", "backbone.")
    weights.move_norms(["bottleneck"], "branches.global.bn")
    return weights.imported({**params, "model_params": {**options, **params["model_params"]}})


def _move_cameras(weights: ForeignWeights) -> None:
    """Move the vectors of the cameras, whose identifiers a file does not hold."""
    vectors = weights.take("base.sie_embed").flatten(1)
    weights.own["backbone.camera_embedding.weight"] = vectors
    weights.own["backbone.camera_embedding.camids"] = torch.arange(1, len(vectors) + 1)
    weights.assumed += [
        f"the vectors of SIE are of the cameras 1 to {len(vectors)}, and not of views; the factor {SIE_FACTOR:g} is as "
        "in TransReID's configurations",
        "evaluation_params.same_cameras is true, for the data set that it was trained on; false gives all images the "
        "mean of the vectors",
    ]


def _move_jpm(weights: ForeignWeights, last: int) -> None:
    """Move the two copies of the last block, one for the class token and one for the parts; the original is unused."""
    weights.drop(f"base.blocks.{last}.", "base.norm.", *(f"classifier_{part}." for part in PARTS))
    for copy, block, norm in (("b1", f"blocks.{last}", "norm"), ("b2", f"blocks_{last}_jigsaw", "norm_jigsaw")):
        weights.move(f"{copy}.0.", f"backbone.{block}.")
        weights.move(f"{copy}.1.", f"backbone.{norm}.")
    weights.move_norms([f"bottleneck_{part}" for part in PARTS], "branches.parts.bn")
    weights.assumed.append("JPM's 4 parts, 2 groups and shift of 5 are those of TransReID's configurations of persons")


def grid_settings(weights: ForeignWeights, patches: int) -> dict[str, Any]:
    """The params of images and patches: of the first known size that has so many patches.

    Raises:
        DataError: none has.
    """
    for stride in (PATCH, 12):
        for height, width in SIZES:
            rows, columns = ((side - PATCH) // stride + 1 for side in (height, width))
            if rows * columns != patches:
                continue
            patch_stride = 0 if stride == PATCH else stride
            weights.assumed += [
                f"images are of {height} x {width}, and their patches {stride} pixels apart, which makes {patches}",
                "mean and standard deviation are 0.5, as in TransReID's configurations",
            ]
            return {
                "img_h": height,
                "img_w": width,
                "data_augmentation": {"normalisation": "half", "interpolation": "bilinear"},
                "model_params": {"patch_stride": patch_stride},
                "evaluation_params": {"type": "market_evaluate", "metric": "cosine"},
            }
    known = ", ".join(f"{height} x {width}" for height, width in SIZES)
    raise DataError(f"{patches} position embeddings, which no images of {known} have with a stride of 16 or 12")
