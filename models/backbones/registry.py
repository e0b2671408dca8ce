"""The known backbones.

A new backbone is a file in this package and an entry of BACKBONES; those of timm are known by their names there.
"""

import json
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field

from models.backbones.backbone import Backbone, BackboneError, BackboneOptions
from models.backbones.resnet import DEPTHS, build_resnet, resnet_map_size
from utils.errors import first_line

MODEL = "model_params.model"
ImageSize = tuple[int, int]
"""Height and width."""


class Preprocessing(NamedTuple):
    """What images are like that a backbone's weights were trained with."""

    mean: tuple[float, ...]
    """Per channel (RGB), of pixels in 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel."""
    interpolation: str
    """With which they were resized: "bilinear" or "bicubic", both with antialiasing."""


TIMM = "timm:"
"""Prefix of the names of timm's models."""
TORCHVISION = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")


class BackboneEntry(NamedTuple):
    """How a backbone is built, and what is known of it before."""

    build: Callable[[BackboneOptions, ImageSize], Backbone]
    """Options, size of the images -> the backbone, randomly initialised."""
    map_size: Callable[[BackboneOptions, ImageSize], tuple[int, int]] | None = None
    """Options, size of the images -> rows and columns of the feature map; None: found by running the backbone."""
    preprocessing: Preprocessing = TORCHVISION
    """Of its ImageNet weights."""
    has_imagenet: bool = True
    """Whether there are ImageNet weights to download."""


def build_timm(options: BackboneOptions, image_size: ImageSize) -> Backbone:
    """A network of timm.

    Raises:
        BackboneError: it has no feature map, or not with these options.
    """
    # timm takes seconds to import.
    from timm.models import is_model_in_modules

    from models.backbones import timm_swin, timm_vit
    from models.backbones.from_timm import TimmBackbone

    name = options.model.removeprefix(TIMM)
    is_vit, is_swin = (is_model_in_modules(name, modules) for modules in (timm_vit.MODULES, timm_swin.MODULE))
    if options.patch_stride and not is_vit:
        text = f"sets the patches of a vision transformer apart, and {options.model} (model) is none; leave it out"
        raise BackboneError(("model_params.patch_stride", MODEL), text)
    if options.semantic_weight is not None and not is_swin:
        text = f"is for a Swin Transformer, such as SOLIDER's, and {options.model} (model) is none; leave it out"
        raise BackboneError(("model_params.semantic_weight", MODEL), text)
    if not is_vit and not is_swin:
        return TimmBackbone(name, options.last_conv_stride, options.zero_init_residual, options.drop_path)
    if options.zero_init_residual:
        text = f"timm has no such initialisation of {options.model} (model); set it to false"
        raise BackboneError(("model_params.zero_init_residual", MODEL), text)
    if is_vit:
        _refuse_stride_2(options)
        return timm_vit.VisionTransformer(name, image_size, options.patch_stride, options.drop_path)
    if options.last_conv_stride == 1:
        text = f"1 is impossible for {options.model} (model), whose last stage merges patches; set it to 2"
        raise BackboneError(("model_params.last_conv_stride", MODEL), text)
    return timm_swin.SwinTransformer(name, image_size, options.drop_path, options.semantic_weight)


def build_osnet(options: BackboneOptions, _image_size: ImageSize) -> Backbone:
    """The OSNet that the options describe.

    Raises:
        BackboneError: stride 2 of the last stage.
    """
    # Only who uses it imports it.
    from models.backbones.osnet import OSNet

    _refuse_stride_2(options)
    return OSNet(*OSNETS[options.model], options.zero_init_residual)


def _refuse_stride_2(options: BackboneOptions) -> None:
    """A last stage without a stride keeps the resolution, as with stride 1."""
    if options.last_conv_stride == 2:
        text = f"2 is impossible for {options.model} (model), whose last stage has no convolution with a stride"
        raise BackboneError(("model_params.last_conv_stride", MODEL), f"{text}; set it to 1")


OSNETS: dict[str, tuple[Literal["bn", "ibn", "ain"], float]] = {
    "osnet_x1_0": ("bn", 1.0),
    "osnet_x0_75": ("bn", 0.75),
    "osnet_x0_5": ("bn", 0.5),
    "osnet_x0_25": ("bn", 0.25),
    "osnet_ibn_x1_0": ("ibn", 1.0),
    "osnet_ain_x1_0": ("ain", 1.0),
    "osnet_ain_x0_75": ("ain", 0.75),
    "osnet_ain_x0_5": ("ain", 0.5),
    "osnet_ain_x0_25": ("ain", 0.25),
}
"""Kind and width of each OSNet; those for which torchreid has published weights."""
BACKBONES: dict[str, BackboneEntry] = {
    **dict.fromkeys(DEPTHS, BackboneEntry(build_resnet, resnet_map_size)),
    **dict.fromkeys(OSNETS, BackboneEntry(build_osnet, has_imagenet=False)),
}
TIMM_ENTRY = BackboneEntry(build_timm)


def has_imagenet_weights(model: str) -> bool:
    """Whether `imagenet_pretrain` is possible for a value of `model`."""
    return model.startswith(TIMM) or BACKBONES[model].has_imagenet


def build_backbone(options: BackboneOptions, image_size: ImageSize) -> Backbone:
    """The backbone that the options describe, randomly initialised.

    Raises:
        BackboneError: no such backbone can be built.
    """
    backbone = _entry(options).build(options, image_size)
    backbone.model_name = options.model
    return backbone


def map_size(options: BackboneOptions, image_size: ImageSize) -> tuple[int, int]:
    """Rows and columns of a backbone's feature map.

    Raises:
        BackboneError: no such backbone can be built, or it does not run on these images.
    """
    return _map_sizes(options, image_size)[0]


def global_map_size(options: BackboneOptions, image_size: ImageSize) -> tuple[int, int]:
    """Rows and columns of what the global branch sees, or the single feature: (1, 1) for a class token.

    Raises:
        BackboneError: as `map_size`.
    """
    return _map_sizes(options, image_size)[1]


def _map_sizes(options: BackboneOptions, image_size: ImageSize) -> tuple[tuple[int, int], tuple[int, int]]:
    if (computed := _entry(options).map_size) is not None:
        return computed(options, image_size), computed(options, image_size)
    # What the heads are does not matter to the backbone.
    own = {name: getattr(options, name) for name in BackboneOptions.model_fields}
    # Frozen, and so hashable.
    return _measured_map_sizes(BackboneOptions(**own), image_size)  # pyright: ignore[reportArgumentType]


def _entry(options: BackboneOptions) -> BackboneEntry:
    return TIMM_ENTRY if options.model.startswith(TIMM) else BACKBONES[options.model]


@lru_cache(maxsize=256)
def _measured_map_sizes(options: BackboneOptions, image_size: ImageSize) -> tuple[tuple[int, int], tuple[int, int]]:
    """Run the backbone on the meta device, which computes shapes only."""
    height, width = image_size
    with torch.device("meta"):
        backbone = build_backbone(options, image_size).eval()
        try:
            maps = backbone.maps(torch.empty(1, 3, height, width))
            (rows, columns), (global_rows, global_columns) = maps[0].shape[2:], maps[-1].shape[2:]
            if not rows or not columns:  # which some versions of torch compute without an error
                raise ValueError("the feature map is empty")
        # A network may refuse a size with an error of any type.
        except Exception as error:
            keys = (MODEL, "img_h", "img_w")
            text = f"{options.model} does not run on images of {height} x {width} (img_h, img_w): {first_line(error)}"
            raise BackboneError(keys, text) from error
    return (rows, columns), (global_rows, global_columns)


def check_model(name: object) -> object:
    """The value of `model`.

    Raises:
        ValueError: there is no such backbone; names the nearest.
    """
    if not isinstance(name, str) or name in BACKBONES:
        return name
    is_timm, bare = name.startswith(TIMM), name.removeprefix(TIMM)
    try:
        from models.backbones.from_timm import model_names

        others = model_names()
    except ModuleNotFoundError as error:
        if is_timm:
            raise ValueError(f'"{name}" needs the package {error.name}; install it: pip install timm') from error
        others = set()
    if is_timm and bare in others:
        return name
    near = [] if is_timm or bare in others else get_close_matches(name.casefold(), BACKBONES, n=1)
    near = near or [f"{TIMM}{other}" for other in get_close_matches(bare, sorted(others), n=1 if bare in others else 3)]
    hint = f"; did you mean {' or '.join(json.dumps(other) for other in near)}?" if near else "."
    known = ", ".join(f'"{known}"' for known in BACKBONES)
    text = f"unknown value {json.dumps(name)[:60]}{hint} Allowed: {known}"
    raise ValueError(f'{text}, or "timm:NAME" for a network of timm')


if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Annotated[
        Literal[tuple(BACKBONES)] | Annotated[str, Field(pattern=f"^{TIMM}.+")], BeforeValidator(check_model)
    ]
    """Values of model_params.model."""


def weights_preprocessing(model: str) -> Preprocessing:
    """The preprocessing that the pretrained weights of a backbone expect.

    Args:
        model: a key of BACKBONES, or "timm:" and the name of one of timm's models, whether it has weights or not.

    Raises:
        ValueError: timm has no such model.
    """
    if not model.startswith(TIMM):
        return BACKBONES[model].preprocessing
    # timm takes seconds to import, so only who uses it pays.
    from timm import get_pretrained_cfg

    name = model.removeprefix(TIMM)
    try:
        found = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ValueError(f"timm has no model {name}: {error}") from error
    assert found is not None
    return Preprocessing(found.mean, found.std, found.interpolation)
