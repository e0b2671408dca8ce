"""The known backbones.

A new backbone is a file in this package and an entry of BACKBONES.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from models.backbones.backbone import Backbone, BackboneOptions
from models.backbones.resnet import DEPTHS, build_resnet, resnet_stride


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

    build: Callable[[BackboneOptions, tuple[int, int]], Backbone]
    """Options, height and width of the images -> the backbone, randomly initialised."""
    stride: Callable[[BackboneOptions], int]
    """Options -> `Backbone.stride`."""
    preprocessing: Preprocessing = TORCHVISION
    """Of its ImageNet weights."""


RESNET = BackboneEntry(build_resnet, lambda options: resnet_stride(options.last_conv_stride))

BACKBONES: dict[str, BackboneEntry] = {
    **dict.fromkeys(DEPTHS, RESNET),
}
if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Literal[tuple(BACKBONES)]
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
