"""The image side of CLIP-ReID: its baseline, or what its prompts trained.

Source: Li et al. 2022, arXiv 2211.13977, and its code: make_model.py, make_model_clipreid.py, clip/model.py and the
configurations of persons.
"""

from collections.abc import Collection

from models.importers.transreid import grid_settings
from models.importers.weights import ForeignWeights, Imported
from utils.errors import DataError

LOOKS_LIKE = "a network of CLIP-ReID"
ENCODER = "image_encoder."
NAMES = {"ln_1.": "norm1.", "ln_2.": "norm2.", "attn.in_proj_": "attn.qkv.", "attn.out_proj.": "attn.proj."}
NAMES |= {"mlp.c_fc.": "mlp.fc1.", "mlp.c_proj.": "mlp.fc2."}
"""How names within a block start in CLIP, and in timm."""


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is one of CLIP-ReID's."""
    return any(name.startswith(ENCODER) for name in names)


def translate(weights: ForeignWeights) -> Imported:
    """CLIP-ReID compares cosines of class token and its projection, both before the batch normalisation.

    Raises:
        DataError: it is a network that is not supported.
    """
    if f"{ENCODER}class_embedding" not in weights.left:
        raise DataError("a ResNet of CLIP, which is not supported; supported is ViT-B/16")
    if weights.has("cv_embed"):
        raise DataError("a CLIP-ReID with camera or view embedding, which is not supported")
    params = grid_settings(weights, len(weights.left[f"{ENCODER}positional_embedding"]) - 1)
    # The side of texts, and the classifiers.
    weights.drop("text_encoder.", "prompt_learner.", "classifier.", "classifier_proj.")
    weights.own["backbone.cls_token"] = weights.take(f"{ENCODER}class_embedding")[None, None]
    weights.own["backbone.pos_embed"] = weights.take(f"{ENCODER}positional_embedding")[None]
    weights.own["backbone.projection.weight"] = weights.take(f"{ENCODER}proj").T
    for name, own in {"conv1": "patch_embed.proj", "ln_pre": "norm_pre", "ln_post": "norm"}.items():
        weights.move(f"{ENCODER}{name}.", f"backbone.{own}.")
    for block in range(weights.count(f"{ENCODER}transformer.resblocks.")):
        for name, own in NAMES.items():
            weights.move(f"{ENCODER}transformer.resblocks.{block}.{name}", f"backbone.blocks.{block}.{own}")
    weights.move_norms(["bottleneck"], "branches.global.bn")
    weights.move_norms(["bottleneck_proj"], "branches.projected.bn")
    options = {
        "model": "timm:vit_base_patch16_clip_quickgelu_224.openai",
        "head": "clip",
        "feature_dim": len(weights.own["backbone.projection.weight"]),
        "neck": "bnneck",
        "retrieval_of": "features",
    }
    return weights.imported({**params, "model_params": {**params["model_params"], **options}})
