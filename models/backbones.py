"""ResNets on torchvision's blocks, cut before their pooling: images in, feature map out."""

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

    Source: He et al. 2016, arXiv 1512.03385; last stride 1: Sun et al. 2018, arXiv 1711.09349, section 3.
    """

    def __init__(self, name: str, last_conv_stride: int, zero_init_residual: bool = False) -> None:
        super().__init__()
        block, depths = DEPTHS[name]
        whole = resnet.ResNet(block, list(depths), zero_init_residual=zero_init_residual)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.out_channels = 512 * block.expansion
        if last_conv_stride == 1:
            _remove_stride(self.layer4)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(features))))


def build_backbone(options: ModelParams) -> ResNet:
    """The backbone that `model` and `last_conv_stride` name, randomly initialised."""
    return ResNet(options.model, options.last_conv_stride, options.zero_init_residual)


def _remove_stride(stage: nn.Module) -> None:
    """Set the stride of every convolution of a stage to 1; weights and padding stay."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (1, 1)
