"""ResNet on torchvision's blocks, with IBN-a and non-local blocks."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone, BackboneOptions, ResNetVariant
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


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation with weights and biases."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, channels last."""
        # torch returns the default memory format, which the following layers would take over.
        return super().forward(input).contiguous(memory_format=torch.channels_last)


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest: (B, C, H, W).

    Parameter names are those of the published IBN-Net weights.

    Source: Pan et al. 2018, arXiv 1807.09441, section 3 (IBN-a).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = InstanceNorm(channels // 2)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, channels last."""
        first, second = features.split((self.IN.num_features, self.BN.num_features), dim=1)
        return torch.cat((self.IN(first), self.BN(second)), dim=1)


class NonLocal(nn.Module):
    """Adds to each of the N positions of a map a sum over all of them: x_i + BN(W sum_j (theta_i . phi_j) g_j / N).

    theta, phi and g are linear in x. The weight of the batch normalisation starts at zero, and so the block as the
    identity.

    Args:
        channels: of x.
        inner: channels of theta, phi and g; half of x's in the paper. Those of AGW and fast-reid have one, by an
            integer division.

    Source: Wang et al. 2018, arXiv 1711.07971, equations 1, 4 and 6, and section 4.1 (initialisation).
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        self.theta = nn.Conv2d(channels, self.inner, 1)
        self.phi = nn.Conv2d(channels, self.inner, 1)
        self.g = nn.Conv2d(channels, self.inner, 1)
        self.W = nn.Conv2d(self.inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        height, width = features.shape[2:]
        # (B, N, inner), as a channels-last map lies in memory.
        theta, phi, g = (layer(features).permute(0, 2, 3, 1).flatten(1, 2) for layer in (self.theta, self.phi, self.g))
        # Divided before the sums, which would overflow in float16.
        phi = phi / (height * width)
        # The same product from either side; the smaller matrix between them is (N, N) or (inner, inner).
        if height * width <= self.inner:
            gathered = theta @ phi.transpose(1, 2) @ g
        else:
            gathered = theta @ (phi.transpose(1, 2) @ g)
        return features + self.bn(self.W(gathered.unflatten(1, (height, width)).permute(0, 3, 1, 2)))


class ResNet(Backbone):
    """ResNet cut before its pooling; parameter names are torchvision's.

    Args:
        name: a key of DEPTHS.
        last_conv_stride: stride of the last stage, 1 or 2.
        zero_init_residual: zero-initialise the last BN weight of each residual block.
        ibn: the first normalisation of each block of the first three stages is an IBN.
        non_local: a non-local block follows each of the last two blocks of layer2 and the last three of layer3, or all
            if there are fewer.
        variant: "fastreid": pooling without padding after the first convolution, rounded up; non-local blocks with one
            inner channel, and nine of them in layer3 of a ResNet-101.

    Source: He et al. 2016, arXiv 1512.03385; last stride 1: Sun et al. 2018, arXiv 1711.09349, section 3; places of the
    non-local blocks: Ye et al. 2021, arXiv 2001.04193 (AGW), whose code has them in ResNet-50 only; fast-reid's
    resnet.py.
    """

    def __init__(
        self,
        name: str,
        last_conv_stride: int,
        zero_init_residual: bool = False,
        ibn: bool = False,
        non_local: bool = False,
        variant: ResNetVariant = "torchvision",
    ) -> None:
        # torchvision takes seconds to import; mistakes in the params are reported without it.
        from torchvision.models import resnet

        block_name, depths = DEPTHS[name]
        block = getattr(resnet, block_name)
        stages = ("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)
        super().__init__(512 * block.expansion, stages)
        self.name = name
        self.before_last = ("layer3",)
        whole = resnet.ResNet(block, list(depths), zero_init_residual=zero_init_residual)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        if variant == "fastreid":
            self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        if last_conv_stride == 1:
            for module in self.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
        if ibn:
            for stage, channels in ((self.layer1, 64), (self.layer2, 128), (self.layer3, 256)):
                for residual in stage:
                    residual.bn1 = IBN(channels)
        if non_local:
            of_layer3 = 9 if (name, variant) == ("resnet_101", "fastreid") else 3
            self.layer2 = _with_non_local(self.layer2, 2, 128 * block.expansion, variant)
            self.layer3 = _with_non_local(self.layer3, of_layer3, 256 * block.expansion, variant)

    def add_style_mixing(self, mixing: nn.Module) -> None:
        """Mix what layer1 and layer2 return."""
        self.style_mixing = mixing

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) and their cameras -> map of the third stage, or of its first block."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.mix_styles(self.layer1(features), camids)
        return self.run(self.before_last, self.mix_styles(self.layer2(features), camids))

    def complete_state(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """As of every backbone; if only this ResNet has IBN, batch normalisations of the state are divided."""
        completed = super().complete_state(state, prefix)
        norms = [f"{prefix}{name}" for name, module in self.named_modules() if isinstance(module, IBN)]
        undivided = [name for name in norms if f"{name}.weight" in completed]
        for name in undivided:
            _divide(completed, name)
        if undivided:
            logger.info(
                "model_params.ibn: the weights are of a ResNet without it; %d batch normalisations are divided, and "
                "instance normalisation starts with the weight and bias of its channels",
                len(undivided),
            )
        return completed

    def imagenet_state(self) -> Mapping[str, Tensor]:
        """torchvision's ImageNet weights without their classifier, downloaded once; non-local blocks are as they are.

        Raises:
            DataError: the download failed; the message says where to put the file.
        """
        what = f"imagenet_pretrain: the weights of {self.name}"
        state, path = fetch_imagenet(self.name.replace("_", ""), what, "set imagenet_pretrain to false")
        logger.info("backbone: ImageNet weights from torchvision's %s", path.name)
        added = {key: value for key, value in self.state_dict().items() if ".non_local_" in key}
        return {**{key: value for key, value in state.items() if not key.startswith("fc.")}, **added}


def _divide(state: dict[str, Tensor], name: str) -> None:
    """Replace a batch normalisation in a state dict by an IBN, which has no use for half of the running statistics."""
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        if (whole := state.pop(f"{name}.{kind}", None)) is None:
            continue
        first, second = whole.tensor_split(2) if whole.dim() else (whole, whole)
        state[f"{name}.BN.{kind}"] = second
        if kind in ("weight", "bias"):
            state[f"{name}.IN.{kind}"] = first


def _with_non_local(stage: nn.Sequential, number: int, channels: int, variant: ResNetVariant) -> nn.Sequential:
    """A stage with a non-local block after each of its last blocks; the names of its blocks stay."""
    inner = 1 if variant == "fastreid" else channels // 2
    extended = nn.Sequential()
    for index, block in enumerate(stage):
        extended.add_module(str(index), block)
        if index >= len(stage) - number:
            extended.add_module(f"non_local_{index}", NonLocal(channels, inner))
    return extended


def build_resnet(options: BackboneOptions, _image_size: tuple[int, int]) -> ResNet:
    """The ResNet that the options describe, randomly initialised; it serves images of any size."""
    return ResNet(
        options.model,
        options.last_conv_stride,
        options.zero_init_residual,
        options.ibn,
        options.non_local,
        options.resnet_variant,
    )


def resnet_map_size(options: BackboneOptions, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the map: each halving rounds up, so one division does for all, but for fast-reid's pooling.

    The params are checked by this, since torchvision takes seconds to import.
    """
    if options.resnet_variant == "fastreid":
        # Without padding the pooling rounds down what the first convolution left.
        image_size = image_size[0] + 1 >> 2 << 2, image_size[1] + 1 >> 2 << 2
    height, width = image_size
    stride = 16 * options.last_conv_stride
    return -(-height // stride), -(-width // stride)
