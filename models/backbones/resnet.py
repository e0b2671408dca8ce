"""ResNet on torchvision's blocks."""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from models.backbones.backbone import Backbone, BackboneOptions
from models.torchvision_weights import fetch_imagenet

# Block and its number in each stage. Source: He et al. 2016, table 1.
DEPTHS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet_18": ("BasicBlock", (2, 2, 2, 2)),
    "resnet_34": ("BasicBlock", (3, 4, 6, 3)),
    "resnet_50": ("Bottleneck", (3, 4, 6, 3)),
    "resnet_101": ("Bottleneck", (3, 4, 23, 3)),
    "resnet_152": ("Bottleneck", (3, 8, 36, 3)),
}

logger = logging.getLogger(__name__)


class ResNet(Backbone):
    """ResNet cut before its pooling; parameter names are torchvision's.

    Args:
        name: a key of DEPTHS.
        last_conv_stride: stride of the last stage, 1 or 2, and so of the backbone 16 or 32.
        zero_init_residual: zero-initialise the last BN weight of each residual block.

    Source: He et al. 2016, arXiv 1512.03385; last stride 1: Sun et al. 2018, arXiv 1711.09349, section 3.
    """

    def __init__(self, name: str, last_conv_stride: int, zero_init_residual: bool = False) -> None:
        # torchvision takes seconds to import; mistakes in the params are reported without it.
        from torchvision.models import resnet

        block_name, depths = DEPTHS[name]
        block = getattr(resnet, block_name)
        stages = ("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)
        super().__init__(512 * block.expansion, resnet_stride(last_conv_stride), stages)
        self.name = name
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

    def imagenet_state(self) -> Mapping[str, Tensor]:
        """torchvision's ImageNet weights without their classifier, downloaded once.

        Raises:
            DataError: the download failed; the message says where to put the file.
        """
        what = f"imagenet_pretrain: the weights of {self.name}"
        state, path = fetch_imagenet(self.name.replace("_", ""), what, "set imagenet_pretrain to false")
        logger.info("backbone: ImageNet weights from torchvision's %s", path.name)
        return {key: value for key, value in state.items() if not key.startswith("fc.")}


def resnet_stride(last_conv_stride: int) -> int:
    """Stride of a ResNet."""
    return 16 * last_conv_stride


def build_resnet(options: BackboneOptions, _image_size: tuple[int, int]) -> ResNet:
    """The ResNet that the options describe, randomly initialised; it serves images of any size."""
    return ResNet(options.model, options.last_conv_stride, options.zero_init_residual)
