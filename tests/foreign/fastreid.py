"""The networks of fast-reid, written from their definitions, with its names of tensors."""

# torch declares attributes of modules that are set from outside as tensors or modules.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIndexIssue=false

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet


class HalfInstanceNorm(nn.Module):
    """IBN-a."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


class SingleChannelNonLocal(nn.Module):
    """x + BN(conv(theta phi^T g / N)), with one channel inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        # Rounding errors would grow with the third power of larger ones.
        for convolution in (self.g, self.theta, self.phi):
            nn.init.normal_(convolution.weight, std=0.002)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        pairs = theta.transpose(1, 2) @ phi / theta.shape[2]
        return x + self.W((pairs @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:]))


class FastReidResNet(nn.Module):
    """Pools without padding; the last stage has stride 1."""

    def __init__(self, name: str, ibn: bool = False, non_local: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        whole = getattr(resnet, name)()
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        for module in self.layer4.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        if ibn:
            for layer in (self.layer1, self.layer2, self.layer3):
                for block in layer:
                    block.bn1 = HalfInstanceNorm(block.bn1.num_features)
        wide = whole.fc.in_features // 4
        self.NL_1, self.NL_4 = nn.ModuleList(), nn.ModuleList()
        self.NL_2 = nn.ModuleList(SingleChannelNonLocal(wide) for _ in range(non_local[0]))
        self.NL_3 = nn.ModuleList(SingleChannelNonLocal(2 * wide) for _ in range(non_local[1]))

    def stem(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, stride=2, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer1(self.stem(images))
        for layer, added in ((self.layer2, self.NL_2), (self.layer3, self.NL_3)):
            for index, block in enumerate(layer):
                x = block(x)
                if index >= len(layer) - len(added):
                    x = added[index - len(layer) + len(added)](x)
        return self.layer4(x)


class FastReidHead(nn.Module):
    """Average, or a generalised mean; perhaps a 1x1 convolution; batch normalisation."""

    def __init__(self, channels: int, dim: int, pooling: Literal["avg", "fixed", "trained"], classes: int = 7) -> None:
        super().__init__()
        self.pooling = pooling
        self.pool_layer = nn.Module()
        if pooling == "trained":
            self.pool_layer.p = nn.Parameter(torch.ones(1) * 3)
        self.bottleneck = nn.Sequential()
        if dim:
            self.bottleneck.append(nn.Conv2d(channels, dim, 1, bias=False))
        self.bottleneck.append(nn.BatchNorm2d(dim or channels))
        self.weight = nn.Parameter(torch.randn(classes, dim or channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.pooling == "avg":
            pooled = x.mean((2, 3), keepdim=True)
        else:
            power = self.pool_layer.p if self.pooling == "trained" else 3.0
            pooled = x.clamp(min=1e-6).pow(power).mean((2, 3), keepdim=True).pow(1 / power)
        return self.bottleneck(pooled)[..., 0, 0]


class FastReidBaseline(nn.Module):
    """BoT, AGW and SBS."""

    def __init__(
        self,
        name: str,
        pooling: Literal["avg", "fixed", "trained"] = "avg",
        ibn: bool = False,
        non_local: tuple[int, int] = (0, 0),
        dim: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = FastReidResNet(name, ibn, non_local)
        self.heads = FastReidHead(512 if name in ("resnet18", "resnet34") else 2048, dim, pooling)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))


class FastReidMGN(nn.Module):
    """Three copies of what follows the first block of layer3, with eight heads."""

    def __init__(self, name: str, channels: int, dim: int, ibn: bool = False) -> None:
        super().__init__()
        whole = FastReidResNet(name, ibn)
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers = (whole.conv1, whole.bn1, nn.ReLU(), pool, whole.layer1, whole.layer2, whole.layer3[0])
        self.backbone = nn.Sequential(*layers)
        for number in (1, 2, 3):
            own = FastReidResNet(name, ibn)
            self.add_module(f"b{number}", nn.Sequential(nn.Sequential(*own.layer3[1:]), own.layer4))
            for part in range(number + 1 if number > 1 else 1):
                suffix = f"b{number}{part or ''}_head"
                self.add_module(suffix, FastReidHead(channels, dim, "trained"))

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        maps = {number: self.get_submodule(f"b{number}")(x) for number in (1, 2, 3)}
        seen = {"b1": maps[1], "b2": maps[2], "b3": maps[3]}
        seen |= {f"b2{part + 1}": stripe for part, stripe in enumerate(maps[2].chunk(2, dim=2))}
        seen |= {f"b3{part + 1}": stripe for part, stripe in enumerate(maps[3].chunk(3, dim=2))}
        return torch.cat([self.get_submodule(f"{name}_head")(x) for name, x in seen.items()], dim=1)
