"""The networks of torchreid, written from their definitions, with its names of tensors."""

# torch declares attributes of modules that are set from outside as tensors or modules.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIndexIssue=false

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

Kind = Literal["bn", "ibn", "ain"]


def layer(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, norm: type = nn.BatchNorm2d):
    """Convolution and normalisation, under torchreid's names."""
    module = nn.Module()
    module.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    if norm is not nn.Identity:
        module.bn = norm(out_channels, affine=True)
    module.forward = lambda x: module.bn(module.conv(x)) if norm is not nn.Identity else module.conv(x)
    return module


class Light(nn.Module):
    """Pointwise, then depthwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(x))).relu()


class Stream(nn.Module):
    """As OSNet-AIN names it."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Light(channels) for _ in range(length)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OSBlock(nn.Module):
    """Four streams with one gate; instance normalisation nowhere, after the addition or in the residual."""

    def __init__(self, in_channels: int, out_channels: int, place: str, named_as_ain: bool) -> None:
        super().__init__()
        inner = out_channels // 4
        self.conv1 = layer(in_channels, inner)
        if named_as_ain:
            self.conv2 = nn.ModuleList(Stream(inner, length) for length in (1, 2, 3, 4))
            self.streams = [*self.conv2]
        else:
            self.conv2a = Light(inner)
            self.conv2b, self.conv2c, self.conv2d = (
                nn.Sequential(*(Light(inner) for _ in range(length))) for length in (2, 3, 4)
            )
            self.streams = [self.conv2a, self.conv2b, self.conv2c, self.conv2d]
        self.gate = nn.Module()
        self.gate.fc1, self.gate.fc2 = nn.Conv2d(inner, inner // 16, 1), nn.Conv2d(inner // 16, inner, 1)
        self.conv3 = layer(inner, out_channels, norm=nn.Identity if place == "inside" else nn.BatchNorm2d)
        self.downsample = layer(in_channels, out_channels) if in_channels != out_channels else None
        self.place = place
        if place != "nowhere":
            self.IN = nn.InstanceNorm2d(out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        reduced, total = self.conv1(x).relu(), 0
        for stream in self.streams:
            found = stream(reduced)
            gate = self.gate.fc2(self.gate.fc1(found.mean((2, 3), keepdim=True)).relu()).sigmoid()
            total = total + gate * found
        residual, shortcut = self.conv3(total), x if self.downsample is None else self.downsample(x)
        if self.place == "inside":
            return (self.IN(residual) + shortcut).relu()
        if self.place == "after":
            return self.IN(residual + shortcut).relu()
        return (residual + shortcut).relu()


class TorchreidOSNet(nn.Module):
    """OSNet, OSNet-IBN or OSNet-AIN with its linear layer of 512."""

    def __init__(self, kind: Kind, width: float, classes: int = 7) -> None:
        super().__init__()
        channels = [int(width * number) for number in (64, 256, 384, 512)]
        places = {
            "bn": ("nowhere",) * 6,
            "ibn": ("after", "after", *("nowhere",) * 4),
            "ain": ("inside", "inside", "nowhere", "inside", "inside", "nowhere"),
        }[kind]
        self.kind = kind
        self.conv1 = layer(3, channels[0], 7, 2, nn.BatchNorm2d if kind == "bn" else nn.InstanceNorm2d)
        for stage in (0, 1, 2):
            ins, out = channels[stage], channels[stage + 1]
            blocks = [
                OSBlock(ins, out, places[2 * stage], kind == "ain"),
                OSBlock(out, out, places[2 * stage + 1], kind == "ain"),
            ]
            transition = [] if stage == 2 else [nn.Sequential(layer(out, out), nn.AvgPool2d(2))]
            if kind == "ain" and transition:
                self.add_module(f"pool{stage + 2}", transition.pop())
            self.add_module(f"conv{stage + 2}", nn.ModuleList([*blocks, *transition]))
        self.conv5 = layer(channels[3], channels[3])
        self.fc = nn.Sequential(nn.Linear(channels[3], 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(images).relu(), 3, stride=2, padding=1)
        for stage in (2, 3, 4):
            blocks: Sequence[nn.Module] = [*self.get_submodule(f"conv{stage}").children()]
            for block in blocks[:2]:
                x = block(x)
            if stage < 4:
                convolution, pool = blocks[2] if len(blocks) > 2 else self.get_submodule(f"pool{stage}")  # pyright: ignore
                x = pool(convolution(x).relu())
        return self.fc(self.conv5(x).relu().mean((2, 3)))


class TorchreidResNet(nn.Module):
    """torchvision's, with a linear layer of 512 and stride 1, or without and with stride 2."""

    def __init__(self, name: str, dim: int, classes: int = 7) -> None:
        super().__init__()
        whole = getattr(resnet, name)()
        self.conv1, self.bn1, self.maxpool = whole.conv1, whole.bn1, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        channels = whole.fc.in_features
        if dim:
            for module in self.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
            self.fc = nn.Sequential(nn.Linear(channels, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.classifier = nn.Linear(dim or channels, classes)
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        pooled = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.fc(pooled) if self.dim else pooled
