"""ResNets on torchvision's blocks, cut before their pooling: images in, feature map out."""

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


class ResNet(nn.Module):
    """(B, 3, H, W) normalised images -> (B, C, h, w) feature map; parameter names are torchvision's.

    Args:
        name: a key of DEPTHS.
        last_conv_stride: stride of the last stage, 1 or 2; the map is H / 16 or H / 32 high, rounded up.
        zero_init_residual: start each block as its shortcut, its last normalisation's weight being zero.
        second_stage4: have a second last stage, `layer4_global`, with weights of its own.

    Source: He et al. 2016, arXiv 1512.03385; last stride 1: Sun et al. 2018, arXiv 1711.09349, section 3.
    """

    def __init__(
        self, name: str, last_conv_stride: int, zero_init_residual: bool = False, second_stage4: bool = False
    ) -> None:
        super().__init__()
        block, depths = DEPTHS[name]
        whole = resnet.ResNet(block, list(depths), zero_init_residual=zero_init_residual)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.out_channels = 512 * block.expansion
        if last_conv_stride == 1:
            _remove_stride(self.layer4)
        # A copy, so that both stages start from the same weights.
        self.layer4_global = deepcopy(self.layer4) if second_stage4 else None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return self.layer4(self._stages_1_to_3(images))

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> map of the last stage and that of the second one, where there is one: (B, C, h, w)."""
        features = self._stages_1_to_3(images)
        feature_map = self.layer4(features)
        return feature_map, feature_map if self.layer4_global is None else self.layer4_global(features)

    def _stages_1_to_3(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(features)))


def build_backbone(options: ModelParams) -> ResNet:
    """The backbone that `model_params` describes, randomly initialised."""
    return ResNet(options.model, options.last_conv_stride, options.zero_init_residual, options.global_own_stage4)


def with_second_stage4(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A state dict of a backbone whose second last stage is the first one's copy, unless it has one of its own."""
    first, second = f"{prefix}layer4.", f"{prefix}layer4_global."
    if any(key.startswith(second) for key in state):
        return dict(state)
    copies = {second + key.removeprefix(first): state[key] for key in state if key.startswith(first)}
    return {**state, **copies}


def _remove_stride(stage: nn.Module) -> None:
    """Set the stride of every convolution of a stage to 1; weights and padding stay."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (1, 1)
