"""Parameters and feature maps of published networks; those of OSNet, MGN, LightMBN and CLIP are tested with them."""

import pytest
import torch

from models.network import build_backbone
from models.options import ModelParams


@pytest.mark.parametrize(
    ("model", "stride", "published", "channels", "rows"),
    [
        ("resnet_18", 1, 11_689_512, 512, 16),
        ("resnet_50", 1, 25_557_032, 2048, 16),
        ("timm:mobilenetv2_100", 2, 3_504_872, 1280, 8),
        ("timm:efficientnet_lite0", 2, 4_652_008, 1280, 8),
        ("timm:vit_tiny_patch16_224", 1, 5_717_416, 192, 16),
        ("timm:vit_small_patch16_224", 1, 22_050_664, 384, 16),
        ("timm:vit_base_patch16_224", 1, 86_567_656, 768, 16),
        ("timm:swin_tiny_patch4_window7_224", 2, 28_288_354, 768, 8),
    ],
)
def test_a_backbone_has_the_published_parameters(
    model: str, stride: int, published: int, channels: int, rows: int
) -> None:
    """Those of the papers' networks for ImageNet, which end with a linear layer of 1000 classes; maps at 256 x 128."""
    options = ModelParams.model_validate({"model": model, "last_conv_stride": stride})
    with torch.device("meta"):
        backbone = build_backbone(options, (224, 224))
        assert sum(weight.numel() for weight in backbone.parameters()) + 1000 * (channels + 1) == published
        maps = build_backbone(options, (256, 128)).eval().maps(torch.empty(1, 3, 256, 128))
    assert tuple(maps[0].shape) == (1, channels, rows, rows // 2)
