"""The known backbones.

A new backbone is a file in this package and an entry of BACKBONES.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from models.backbones.backbone import Backbone, BackboneOptions
from models.backbones.resnet import DEPTHS, build_resnet, resnet_stride


class BackboneEntry(NamedTuple):
    """How a backbone is built, and what is known of it before."""

    build: Callable[[BackboneOptions, tuple[int, int]], Backbone]
    """Options, height and width of the images -> the backbone, randomly initialised."""
    stride: Callable[[BackboneOptions], int]
    """Options -> `Backbone.stride`."""


RESNET = BackboneEntry(build_resnet, lambda options: resnet_stride(options.last_conv_stride))

BACKBONES: dict[str, BackboneEntry] = {
    **dict.fromkeys(DEPTHS, RESNET),
}
if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Literal[tuple(BACKBONES)]
    """Values of model_params.model."""
