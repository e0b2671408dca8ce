"""The contract of all backbones: images in, feature map out."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal

from torch import Tensor, nn

from utils.errors import ParamsError
from utils.options import Options


class BackboneOptions(Options):
    """The settings that a backbone is built from."""

    model: str = "resnet_50"
    """Backbone."""
    last_conv_stride: Literal[1, 2] = 1
    """Stride of the last stage: 1 keeps twice the height and width of the feature map."""
    zero_init_residual: bool = False
    """Zero-initialise the last BN weight of each residual block (Goyal et al. 2017)."""
    ibn: bool = False
    """IBN-a in layer1 to layer3 of a ResNet: half of each block's first BN is InstanceNorm (Pan et al. 2018)."""
    non_local: bool = False
    """A non-local block after each of a ResNet's last 2 blocks of layer2 and last 3 of layer3 (Wang et al. 2018)."""


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> (B, C, h, w) feature map, h = H / stride and w = W / stride rounded up.

    A subclass registers its layers and implements `trunk`. Where the global branch should see something else than the
    map, such as a class token, it overrides `both_maps`.

    Args:
        out_channels: C.
        stride: pixels per row and column of the map.
        stages: names of the submodules and parameters of each stage, from input to output: the parameters of a stage
            are those with one of its names, alone or followed by a dot. The last stage is one module.
    """

    def __init__(self, out_channels: int, stride: int, stages: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.stages = stages
        self.last = stages[-1][0]
        self.global_last: str | None = None
        """Name of the global branch's own last stage; None: it shares the last stage."""

    def trunk(self, images: Tensor) -> Tensor:
        """All stages but the last: images (B, 3, H, W) -> input of the last stage."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return getattr(self, self.last)(self.trunk(images))

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> maps (B, C, h, w) for the stripes and for the global branch, or the single feature.

        They are the same unless the global branch has a last stage of its own. An override may return a map of any
        size as the second: a class token is one of (B, C, 1, 1).
        """
        features = self.trunk(images)
        feature_map = getattr(self, self.last)(features)
        if self.global_last is None:
            return feature_map, feature_map
        return feature_map, getattr(self, self.global_last)(features)

    def stages_above(self, name: str) -> int:
        """How many stages follow that of a parameter, given by its name in this backbone."""
        for depth, stage in enumerate(reversed(self.stages)):
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in stage):
                return depth
        raise ValueError(f"{name}: in no stage of {type(self).__name__}")

    def add_global_last_stage(self) -> None:
        """Give the global branch its own last stage: a copy, which starts with the same weights."""
        self.global_last = f"{self.last}_global"
        self.add_module(self.global_last, deepcopy(getattr(self, self.last)))
        self.stages = (*self.stages[:-1], (self.last, self.global_last))

    def complete_state(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A state dict in which a missing last stage of the global branch is a copy of the shared one.

        Args:
            state: of this backbone.
            prefix: of all names in the state.
        """
        shared, own = f"{prefix}{self.last}.", f"{prefix}{self.global_last}."
        if self.global_last is None or any(key.startswith(own) for key in state):
            return dict(state)
        copies = {own + key.removeprefix(shared): state[key] for key in state if key.startswith(shared)}
        return {**state, **copies}

    def imagenet_state(self) -> Mapping[str, Tensor]:
        """State dict of ImageNet weights, with the names of this backbone.

        Raises:
            ParamsError: there are none for this backbone.
            DataError: they cannot be read or downloaded.
        """
        raise ParamsError(f"imagenet_pretrain: there are no weights for {type(self).__name__}; set it to false")

    def load_imagenet(self) -> None:
        """Load ImageNet weights; raises as `imagenet_state`."""
        self.load_state_dict(self.complete_state(self.imagenet_state()))


def feature_map_size(img_h: int, img_w: int, stride: int) -> tuple[int, int]:
    """Rows and columns of a backbone's feature map for an image of img_h x img_w pixels.

    Each halving pads and rounds up, so one division by the backbone's stride does for all.
    """
    return -(-img_h // stride), -(-img_w // stride)
