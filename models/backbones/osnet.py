"""OSNet, and its forms with instance normalisation, OSNet-IBN and OSNet-AIN."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.backbones.resnet import InstanceNorm

Kind = Literal["bn", "ibn", "ain"]
Place = Literal["none", "residual", "output"]

CHANNELS = (64, 256, 384, 512)
"""Of the first convolution and of the three stages of blocks, at width 1. Source: Zhou et al. 2019, table 1."""
PLACES: dict[Kind, tuple[tuple[Place, ...], ...]] = {
    "bn": (("none", "none"), ("none", "none"), ("none", "none")),
    "ibn": (("output", "output"), ("none", "none"), ("none", "none")),
    "ain": (("residual", "residual"), ("none", "residual"), ("residual", "none")),
}
"""Where each block of the three stages has instance normalisation. The first convolution has it too, except in "bn".

Source: Zhou et al. 2021, arXiv 1910.06827, sections 3.3 and 3.4; those of AIN were found by its search.
"""


class OmniScaleBlock(nn.Module):
    """A residual of four streams of one to four light 3x3 convolutions, each weighted by the same gate.

    Args:
        in_channels: of the input.
        out_channels: of the output; the streams have a quarter.
        place: where instance normalisation is: "residual" instead of the residual's last batch normalisation, "output"
            after the addition.
        zero_init_residual: zero-initialise the weight of the residual's last normalisation.

    Source: Zhou et al. 2019, section 3.2, equations 1 to 3 and figure 4b.
    """

    def __init__(
        self, in_channels: int, out_channels: int, place: Place = "none", zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        inner = out_channels // 4
        self.place = place
        self.conv1 = convolution(in_channels, inner)
        self.conv2a = light_convolution(inner)
        self.conv2b, self.conv2c, self.conv2d = (
            nn.Sequential(*(light_convolution(inner) for _ in range(length))) for length in (2, 3, 4)
        )
        self.gate = aggregation_gate(inner)
        self.conv3 = convolution(inner, out_channels, norm=None if place == "residual" else nn.BatchNorm2d, relu=False)
        self.downsample = nn.Identity()
        if in_channels != out_channels:
            self.downsample = convolution(in_channels, out_channels, relu=False)
        self.IN = nn.Identity() if place == "none" else InstanceNorm(out_channels)
        if zero_init_residual:
            nn.init.zeros_((self.IN if place == "residual" else self.conv3.bn).weight)  # pyright: ignore

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        reduced = self.conv1(features)
        residual = self.conv3(
            self._gated(self.conv2a(reduced))
            + self._gated(self.conv2b(reduced))
            + self._gated(self.conv2c(reduced))
            + self._gated(self.conv2d(reduced))
        )
        shortcut = self.downsample(features)
        if self.place == "output":
            return self.IN(residual + shortcut).relu()
        return (self.IN(residual) + shortcut).relu()

    def _gated(self, stream: Tensor) -> Tensor:
        return stream * self.gate(stream.mean((2, 3), keepdim=True))


class OSNet(Backbone):
    """OSNet cut before its pooling, stride 16; parameter names are torchreid's of OSNet.

    The last stage is the third stage of blocks with the 1x1 convolution after it: on one map, as nothing strides there.

    Args:
        kind: "bn", or with instance normalisation "ibn" or "ain".
        width: factor of the channels: 1, 0.75, 0.5 or 0.25.
        zero_init_residual: zero-initialise the weight of the last normalisation of each residual.

    Source: Zhou et al. 2019, arXiv 1905.00953, section 3 and table 1; 2021, arXiv 1910.06827.
    """

    def __init__(self, kind: Kind = "bn", width: float = 1.0, zero_init_residual: bool = False) -> None:
        channels = [int(width * number) for number in CHANNELS]
        super().__init__(channels[-1], (("conv1",), ("conv2",), ("conv3",), ("conv4", "conv5")))
        self.before_last = ("conv3",)

        def stage(index: int) -> nn.Sequential:
            blocks, in_channels, out_channels = nn.Sequential(), channels[index], channels[index + 1]
            for place in PLACES[kind][index]:
                blocks.append(OmniScaleBlock(in_channels, out_channels, place, zero_init_residual))
                in_channels = out_channels
            return blocks

        self.conv1 = convolution(3, channels[0], 7, 2, norm=nn.BatchNorm2d if kind == "bn" else InstanceNorm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = stage(0).append(transition(channels[1]))
        self.conv3 = stage(1).append(transition(channels[2]))
        self.conv4 = stage(2)
        self.conv5 = convolution(channels[3], channels[3])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def add_style_mixing(self, mixing: nn.Module) -> None:
        """Mix what conv2 returns, and conv3, or its first block where the others are copied for each branch."""
        self.style_mixing = mixing

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) and their cameras -> map of the second stage of blocks, or of its first block."""
        features = self.mix_styles(self.conv2(self.maxpool(self.conv1(images))), camids)
        return self.mix_styles(self.run(self.before_last, features), camids)

    def with_own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchreid names streams and transitions of OSNet-AIN otherwise than those of OSNet."""
        return {own_name(name): value for name, value in state.items()}


def own_name(name: str) -> str:
    """For example "conv3.1.conv2.3.layers.0.bn.weight" -> "conv3.1.conv2d.0.bn.weight"."""
    name = re.sub(r"^pool([23])\.", r"conv\1.2.", name)
    name = re.sub(r"\.conv2\.([0-3])\.layers\.", lambda match: f".conv2{'abcd'[int(match[1])]}.", name)
    return name.replace(".conv2a.0.", ".conv2a.")


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    norm: type[nn.BatchNorm2d] | type[InstanceNorm] | None = nn.BatchNorm2d,
    relu: bool = True,
) -> nn.Sequential:
    """A convolution and what follows it: normalisation and ReLU, unless they are switched off."""
    layers = OrderedDict[str, nn.Module]()
    layers["conv"] = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    if norm is not None:
        layers["bn"] = norm(out_channels)
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def light_convolution(channels: int) -> nn.Sequential:
    """A 3x3 convolution in two factors: between channels, then within each ("Lite 3x3", figure 3b)."""
    layers = OrderedDict[str, nn.Module]()
    layers["conv1"] = nn.Conv2d(channels, channels, 1, bias=False)
    layers["conv2"] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    layers["bn"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def aggregation_gate(channels: int) -> nn.Sequential:
    """Pooled stream (B, C, 1, 1) -> weight of each of its channels, 0 to 1."""
    layers = OrderedDict[str, nn.Module]()
    layers["fc1"] = nn.Conv2d(channels, channels // 16, 1)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["fc2"] = nn.Conv2d(channels // 16, channels, 1)
    layers["sigmoid"] = nn.Sigmoid()
    return nn.Sequential(layers)


def transition(channels: int) -> nn.Sequential:
    """Between two stages: a 1x1 convolution, and half the height and width."""
    return nn.Sequential(convolution(channels, channels), nn.AvgPool2d(2))
