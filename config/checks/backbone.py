"""The backbone: whether it can be built, and the options of one kind of them."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from config.checks.conflict import Conflict
from config.params import Params
from models.backbones.backbone import HEAD, MODEL, Backbone, BackboneError
from models.backbones.registry import TIMM, build_backbone, global_map_size, map_size
from models.backbones.resnet import DEPTHS
from models.outputs import PARTS


def backbone_has_a_map(params: Params) -> Iterator[Conflict]:
    """The backbone gives a feature map for the images; a ResNet always does."""
    if params.model_params.model not in DEPTHS:
        try:
            map_size(params.model_params, (params.img_h, params.img_w))
        except BackboneError as error:
            yield Conflict(error.keys, error.text)


def resnet_options_fit(params: Params) -> Iterator[Conflict]:
    """IBN-a and non-local blocks are for torchvision's ResNets; instance normalisation needs more than one position."""
    model, key = params.model_params, MODEL
    changed = [f"model_params.{name}" for name in ("ibn", "non_local") if getattr(model, name)]
    if model.resnet_variant != "torchvision":
        changed.append("model_params.resnet_variant")
    if changed and model.model not in DEPTHS:
        verb = "changes" if len(changed) == 1 else f"and {' and '.join(changed[1:])} change"
        text = f"{verb} torchvision's ResNets, but {key} is {model.model}; leave this out, or use {' or '.join(DEPTHS)}"
        yield Conflict((*changed, key), text)
    elif model.ibn and params.img_h <= 16 and params.img_w <= 16:
        text = "normalises each image by itself, but at img_h 16 and img_w 16 its map has one position in layer3"
        yield Conflict(("model_params.ibn", "img_h", "img_w"), f"{text}; use a larger img_h")


def timm_options_fit(params: Params) -> Iterator[Conflict]:
    """Patches and stochastic depth are of networks of timm; building one tells whether it has them."""
    model = params.model_params
    kinds = {"patch_stride": "vision transformers", "semantic_weight": "Swin Transformers", "drop_path": "networks"}
    for name, what in kinds.items():
        if getattr(model, name) != type(model).model_fields[name].default and not model.model.startswith(TIMM):
            text = f"is for {what} of timm, but {MODEL} is {model.model}; leave this out"
            yield Conflict((f"model_params.{name}", MODEL), text)
    if model.semantic_weight is not None and params.imagenet_pretrain:
        text = "is for SOLIDER's weights, and ImageNet weights lack its layers; set imagenet_pretrain to false"
        keys = "model_params.semantic_weight", "imagenet_pretrain"
        yield Conflict(keys, f"{text}, and pretrain_snapshot to the file of SOLIDER")


def transformer_options_fit(params: Params) -> Iterator[Conflict]:
    """What acts on the tokens of a vision transformer has one."""
    model = params.model_params
    if model.head == "clip" and not _has_class_token(params):
        text = f'"clip" projects the class token of a vision transformer, but {MODEL} {model.model} has none'
        yield Conflict((HEAD, MODEL), f'{text}; use "timm:vit_base_patch16_clip_quickgelu_224.openai"')
    if model.head == "jpm":
        yield from _refusals(params, lambda backbone: backbone.add_jigsaw(model.branches[PARTS]))
    if model.camera_embedding:
        yield from _refusals(params, lambda backbone: backbone.add_camera_embedding((0, 1), model.camera_embedding))


def style_mixing_fits(params: Params) -> Iterator[Conflict]:
    """MixStyle changes the maps of convolutional stages."""
    model = params.model_params
    if model.mixstyle:
        yield from _refusals(params, lambda backbone: backbone.add_style_mixing(nn.Identity()))
        return
    for name in ("mixstyle_alpha", "mixstyle_across_cameras"):
        if getattr(model, name) != type(model).model_fields[name].default:
            text = "has no effect: model_params.mixstyle is 0; leave it out"
            yield Conflict((f"model_params.{name}", "model_params.mixstyle"), text)


def _has_class_token(params: Params) -> bool:
    """Whether the backbone has a class token; also True for one that cannot be built, of which another check tells."""
    if not params.model_params.model.startswith(TIMM):
        return False
    size = params.img_h, params.img_w
    try:
        return global_map_size(params.model_params, size) != map_size(params.model_params, size)
    except BackboneError:
        return True


def _refusals(params: Params, change: Callable[[Backbone], None]) -> list[Conflict]:
    """Why the backbone cannot be changed; nothing if it can, or cannot even be built, which another check finds."""
    with torch.device("meta"):
        try:
            backbone = build_backbone(params.model_params, (params.img_h, params.img_w))
        except BackboneError:
            return []
        try:
            change(backbone)
        except BackboneError as error:
            return [Conflict(error.keys, error.text)]
    return []
