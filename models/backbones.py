"""Backbones: images in, feature map out. The contract of all, and ResNet on torchvision's blocks."""

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn
from torchvision.models import resnet

from models.options import ModelParams

# Blocks of each stage. Source: He et al. 2016, table 1.
DEPTHS: dict[str, tuple[type[resnet.BasicBlock] | type[resnet.Bottleneck], tuple[int, int, int, int]]] = {
    "resnet_18": (resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet_34": (resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet_50": (resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet_101": (resnet.Bottleneck, (3, 4, 23, 3)),
    "resnet_152": (resnet.Bottleneck, (3, 8, 36, 3)),
}


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> (B, C, h, w) feature map, h = H / stride and w = W / stride rounded up.

    A subclass registers its layers and implements `trunk`.

    Args:
        out_channels: C.
        stride: pixels per row and column of the map.
        stages: names of the submodules of each stage, from input to output; the last stage is one module.
    """

    def __init__(self, out_channels: int, stride: int, stages: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride
        self.stages = stages
        self.last = stages[-1][0]
        self.second_last: str | None = None
        """Name of a second last stage, with weights of its own; None: there is none."""

    def trunk(self, images: Tensor) -> Tensor:
        """All stages but the last: images (B, 3, H, W) -> input of the last stage."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return getattr(self, self.last)(self.trunk(images))

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> maps of the last stage and of the second one, the same without: (B, C, h, w) each."""
        features = self.trunk(images)
        feature_map = getattr(self, self.last)(features)
        if self.second_last is None:
            return feature_map, feature_map
        return feature_map, getattr(self, self.second_last)(features)

    def add_second_last_stage(self) -> None:
        """Add a copy of the last stage, which starts with the same weights, beside it."""
        self.second_last = f"{self.last}_global"
        self.add_module(self.second_last, deepcopy(getattr(self, self.last)))
        self.stages = (*self.stages[:-1], (self.last, self.second_last))

    def complete_state(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A state dict in which a missing second last stage is a copy of the last; the prefix is that of all names."""
        first, second = f"{prefix}{self.last}.", f"{prefix}{self.second_last}."
        if self.second_last is None or any(key.startswith(second) for key in state):
            return dict(state)
        copies = {second + key.removeprefix(first): state[key] for key in state if key.startswith(first)}
        return {**state, **copies}


class ResNet(Backbone):
    """ResNet cut before its pooling; parameter names are torchvision's.

    Args:
        name: a key of DEPTHS.
        last_conv_stride: stride of the last stage, 1 or 2, and so of the backbone 16 or 32.
        zero_init_residual: zero-initialise the last BN weight of each residual block.

    Source: He et al. 2016, arXiv 1512.03385; last stride 1: Sun et al. 2018, arXiv 1711.09349, section 3.
    """

    def __init__(self, name: str, last_conv_stride: int, zero_init_residual: bool = False) -> None:
        block, depths = DEPTHS[name]
        stages = ("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)
        super().__init__(512 * block.expansion, 16 * last_conv_stride, stages)
        whole = resnet.ResNet(block, list(depths), zero_init_residual=zero_init_residual)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        if last_conv_stride == 1:
            for module in self.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)

    def trunk(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> map of the third stage."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(features)))


def build_resnet(options: ModelParams) -> ResNet:
    """The ResNet that `model_params` describes, randomly initialised."""
    return ResNet(options.model, options.last_conv_stride, options.zero_init_residual)
