"""The contract of all backbones: images in, feature map out."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Literal

from torch import Tensor, nn

from utils.errors import ParamsError
from utils.options import Options


class BackboneOptions(Options):
    """The settings that a backbone is built from."""

    model: str = "resnet_50"
    """Backbone: a ResNet of torchvision, an OSNet, or "timm:NAME" for a convolutional network of timm."""
    last_conv_stride: Literal[1, 2] = 1
    """Stride of the last stage: 1 keeps twice the height and width of the feature map."""
    zero_init_residual: bool = False
    """Zero-initialise the last BN weight of each residual block (Goyal et al. 2017)."""
    ibn: bool = False
    """IBN-a in layer1 to layer3 of a ResNet: half of each block's first BN is InstanceNorm (Pan et al. 2018)."""
    non_local: bool = False
    """A non-local block after each of a ResNet's last 2 blocks of layer2 and last 3 of layer3 (Wang et al. 2018)."""


class BackboneError(ParamsError):
    """A backbone that the params ask for and that cannot be built.

    Args:
        keys: of the params that do not go together; the message is shown at the first.
        text: what is wrong and what to do.
    """

    def __init__(self, keys: tuple[str, ...], text: str) -> None:
        super().__init__(f"{keys[0]}: {text}")
        self.keys = keys
        self.text = text


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> (B, C, h, w) feature map.

    A subclass registers its layers and implements `trunk`. Where the global branch should see something else than the
    map, such as a class token, it overrides `both_maps`.

    Args:
        out_channels: C.
        stage_names: names of the submodules and parameters of each stage, from input to output: the parameters of a
            stage are those with one of its names, alone or followed by a dot. The last stage names modules, which run
            one after another.
    """

    def __init__(self, out_channels: int, stage_names: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stage_names = stage_names
        self.last = stage_names[-1]
        self.global_last: tuple[str, ...] = ()
        """Names of the modules of the global branch's own last stage; empty: it shares the last stage."""

    def trunk(self, images: Tensor) -> Tensor:
        """All stages but the last: images (B, 3, H, W) -> input of the last stage."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return self.run(self.last, self.trunk(images))

    def run(self, names: Iterable[str], features: Tensor) -> Tensor:
        """Apply submodules, by their names, one after another."""
        for name in names:
            features = self.get_submodule(name)(features)
        return features

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> maps (B, C, h, w) for the stripes and for the global branch, or the single feature.

        They are the same unless the global branch has a last stage of its own. An override may return a map of any
        size as the second: a class token is one of (B, C, 1, 1).
        """
        features = self.trunk(images)
        feature_map = self.run(self.last, features)
        if not self.global_last:
            return feature_map, feature_map
        return feature_map, self.run(self.global_last, features)

    def stages_above(self, name: str) -> int:
        """How many stages follow that of a parameter, given by its name in this backbone."""
        for depth, stage in enumerate(reversed(self.stage_names)):
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in stage):
                return depth
        raise ValueError(f"{name}: in no stage of {type(self).__name__}")

    def add_global_last_stage(self) -> None:
        """Give the global branch its own last stage: a copy, which starts with the same weights."""
        self.global_last = tuple(f"{name.replace('.', '_')}_global" for name in self.last)
        for name, copy in zip(self.last, self.global_last, strict=True):
            self.add_module(copy, deepcopy(self.get_submodule(name)))
        self.stage_names = (*self.stage_names[:-1], (*self.last, *self.global_last))

    def complete_state(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A state dict in which a missing last stage of the global branch is a copy of the shared one.

        Args:
            state: of this backbone.
            prefix: of all names in the state.
        """
        own = tuple(f"{prefix}{name}." for name in self.global_last)
        if any(key.startswith(own) for key in state):
            return dict(state)
        copies = {}
        for name, copy in zip(self.last, own, strict=False):
            shared = f"{prefix}{name}."
            copies |= {copy + key.removeprefix(shared): state[key] for key in state if key.startswith(shared)}
        return {**state, **copies}

    def with_own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state dict of another library for this network, with the names of this backbone.

        Raises:
            ValueError: the names are another library's and cannot be translated.
        """
        return state

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
