"""OSNet against the paper's equations and the published counts, and under the published names."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.backbones.osnet import Kind, OmniScaleBlock, OSNet, Place
from models.network import build_network
from models.options import ModelParams
from models.pretrained import load_snapshot

IMAGES = (2, 3, 64, 32)
CHANNELS_LAST = torch.channels_last


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """With random numbers everywhere, also where it starts with 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in module.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2.0, generator=generator)
        elif values.is_floating_point():
            values.normal_(0.0, 0.5, generator=generator)
    return module


# The plain reference: one image (C, H, W), in evaluation.


def at_each_position(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """A 1x1 convolution."""
    result = image.new_zeros(layer.out_channels, *image.shape[1:])
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            result[:, row, column] = layer.weight[:, :, 0, 0] @ image[:, row, column]
    return result


def within_each_channel(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """A depthwise 3x3 convolution, zeros beyond the border."""
    _, rows, columns = image.shape
    result = torch.zeros_like(image)
    for row in range(rows):
        for column in range(columns):
            for down in range(max(row - 1, 0), min(row + 2, rows)):
                for right in range(max(column - 1, 0), min(column + 2, columns)):
                    weight = layer.weight[:, 0, down - row + 1, right - column + 1]
                    result[:, row, column] += weight * image[:, down, right]
    return result


def batch_norm(layer: nn.BatchNorm2d, image: Tensor) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    scale = layer.weight / (variance + 1e-5).sqrt()
    return torch.stack([(x - m) * s + b for x, m, s, b in zip(image, mean, scale, layer.bias, strict=True)])


def instance_norm(layer: nn.InstanceNorm2d, image: Tensor) -> Tensor:
    result = torch.empty_like(image)
    for channel, values in enumerate(image):
        deviation = (values.square().mean() - values.mean().square() + 1e-5).sqrt()
        result[channel] = (values - values.mean()) / deviation * layer.weight[channel] + layer.bias[channel]
    return result


def omni_scale(block: OmniScaleBlock, image: Tensor) -> Tensor:
    """y = relu(shortcut + W sum over t = 1 .. 4 of G(x^t) * x^t), x^t = F^t(x)."""

    def part(name: str) -> nn.Module:
        return block.get_submodule(name)

    reduced = batch_norm(part("conv1.bn"), at_each_position(part("conv1.conv"), image)).relu()  # pyright: ignore
    total = torch.zeros_like(reduced)
    for length, letter in enumerate("abcd", 1):
        stream = reduced
        for index in range(length):
            layer = f"conv2{letter}" if length == 1 else f"conv2{letter}.{index}"
            stream = at_each_position(part(f"{layer}.conv1"), stream)  # pyright: ignore
            stream = within_each_channel(part(f"{layer}.conv2"), stream)  # pyright: ignore
            stream = batch_norm(part(f"{layer}.bn"), stream).relu()  # pyright: ignore
        pooled = torch.stack([values.mean() for values in stream])
        first, second = part("gate.fc1"), part("gate.fc2")
        hidden = (first.weight[:, :, 0, 0] @ pooled + first.bias).relu()  # pyright: ignore
        gate = 1 / (1 + (-(second.weight[:, :, 0, 0] @ hidden + second.bias)).exp())  # pyright: ignore
        total += stream * gate[:, None, None]
    residual = at_each_position(part("conv3.conv"), total)  # pyright: ignore
    if block.place == "residual":
        residual = instance_norm(part("IN"), residual)  # pyright: ignore
    else:
        residual = batch_norm(part("conv3.bn"), residual)  # pyright: ignore
    shortcut = image
    if block.conv1.conv.in_channels != block.conv3.conv.out_channels:  # pyright: ignore
        shortcut = batch_norm(part("downsample.bn"), at_each_position(part("downsample.conv"), image))  # pyright: ignore
    if block.place == "output":
        return instance_norm(part("IN"), residual + shortcut).relu()  # pyright: ignore
    return (residual + shortcut).relu()


@pytest.mark.parametrize("place", ["none", "residual", "output"])
# A block of width 1/4, and one whose gate has two hidden channels.
@pytest.mark.parametrize(("in_channels", "out_channels"), [(16, 64), (128, 128)])
def test_a_block_is_that_of_the_paper(in_channels: int, out_channels: int, place: Place) -> None:
    block = randomised(OmniScaleBlock(in_channels, out_channels, place).double()).eval()
    images = torch.randn(2, in_channels, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.stack([omni_scale(block, image) for image in images])  # pyright: ignore
        found = block(images.contiguous(memory_format=CHANNELS_LAST))
    assert expected.count_nonzero() > expected.numel() / 4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=CHANNELS_LAST)


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Of the convolutions and the linear layer for one image, a bias counted as one more factor."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        total += output.numel() * (math.prod(layer.weight.shape[1:]) + (layer.bias is not None))

    hooks = [
        module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    network(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("kind", "width", "num_parameters", "published", "published_multiply_adds"),
    [
        ("bn", 1.0, 1_905_828, 2_193_616, 978_878_352),
        ("bn", 0.75, 1_087_610, 1_299_224, 571_754_536),
        ("bn", 0.5, 497_426, 636_520, 272_901_064),
        ("bn", 0.25, 134_792, 203_568, 82_316_000),
        # The two instance normalisations after additions are not instead of others.
        ("ibn", 1.0, 1_906_852, 2_194_640, 978_878_352),
        ("ain", 1.0, 1_905_828, 2_193_616, 978_878_352),
        ("ain", 0.75, 1_087_610, 1_299_224, 571_754_536),
        ("ain", 0.5, 497_426, 636_520, 272_901_064),
        ("ain", 0.25, 134_792, 203_568, 82_316_000),
    ],
)
def test_parameters_and_multiply_adds_are_as_many_as_published(
    kind: Kind, width: float, num_parameters: int, published: int, published_multiply_adds: int
) -> None:
    """As torchreid prints them for 256 x 128: 2.2, 1.3, 0.6 and 0.2 million in the papers' tables.

    It counts its linear layer of 512, which is a head here, and a block's gate for each of the four streams it weighs.
    """
    with torch.device("meta"):
        backbone = OSNet(kind, width).eval()
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(backbone.out_channels, 512))
    assert sum(weight.numel() for weight in backbone.parameters()) == num_parameters
    gates = sum(weight.numel() for name, weight in backbone.named_parameters() if ".gate." in name)
    in_head = sum(weight.numel() for weight in head.parameters()) + 2 * 512
    assert num_parameters + 3 * gates + in_head == published
    assert multiply_adds(nn.Sequential(backbone, head), (256, 128)) == published_multiply_adds
    assert backbone(torch.empty(1, 3, 256, 128, device="meta")).shape == (1, round(512 * width), 16, 8)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bn", []),
        ("ibn", ["conv1.bn", "conv2.0.IN", "conv2.1.IN"]),
        ("ain", ["conv1.bn", "conv2.0.IN", "conv2.1.IN", "conv3.1.IN", "conv4.0.IN"]),
    ],
)
def test_instance_normalisation_is_where_it_was_published(kind: Kind, expected: list[str]) -> None:
    with torch.device("meta"):
        backbone = OSNet(kind)
    found = {name for name, module in backbone.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    assert found == set(expected)


def torchreid_names(kind: Kind) -> list[str]:
    """Names of the parameters and buffers in torchreid's files, written out; without head and classifier."""
    places = {"bn": "", "ibn": "conv2.0 conv2.1", "ain": "conv2.0 conv2.1 conv3.1 conv4.0"}[kind].split()

    def norm(name: str, instance: bool = False) -> list[str]:
        running = () if instance else ("running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{part}" for part in ("weight", "bias", *running)]

    def layer(name: str) -> list[str]:
        return [f"{name}.conv.weight", *norm(f"{name}.bn")]

    names = ["conv1.conv.weight", *norm("conv1.bn", instance=kind != "bn"), *layer("conv5")]
    for stage in (2, 3):
        names += layer(f"pool{stage}.0" if kind == "ain" else f"conv{stage}.2.0")
    for block in [f"conv{stage}.{index}" for stage in (2, 3, 4) for index in (0, 1)]:
        names += layer(f"{block}.conv1")
        names += [f"{block}.gate.{part}.{what}" for part in ("fc1", "fc2") for what in ("weight", "bias")]
        for length in (1, 2, 3, 4):
            for index in range(length):
                if kind == "ain":
                    name = f"{block}.conv2.{length - 1}.layers.{index}"
                else:
                    name = f"{block}.conv2{'abcd'[length - 1]}" + (f".{index}" if length > 1 else "")
                names += [f"{name}.conv1.weight", f"{name}.conv2.weight", *norm(f"{name}.bn")]
        if kind == "ain" and block in places:
            names += [f"{block}.conv3.conv.weight"]
        else:
            names += layer(f"{block}.conv3")
        names += norm(f"{block}.IN", instance=True) if block in places else []
        names += layer(f"{block}.downsample") if block.endswith("0") else []
    return names


@pytest.mark.parametrize(
    ("model", "kind"), [("osnet_x0_25", "bn"), ("osnet_ibn_x1_0", "ibn"), ("osnet_ain_x0_25", "ain")]
)
def test_a_file_of_torchreid_fills_the_backbone(
    model: str, kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = build_network(ModelParams.model_validate({"model": model, "feature_dim": 8}), 3)
    before = network.backbone.state_dict()
    numbers = {name: torch.tensor(number) for number, name in enumerate(torchreid_names(kind))}
    ours = network.backbone.with_own_names(numbers)
    assert ours.keys() == before.keys()
    assert network.backbone.with_own_names(ours) == ours
    published = {
        name: torch.full_like(before[own], number % 7 + 1)
        for number, (name, own) in enumerate(zip(numbers, ours, strict=True))
    }
    beside = {"fc.0.weight": torch.zeros(512, 128), "classifier.weight": torch.zeros(751, 512)}
    content = {f"module.{name}": value for name, value in {**published, **beside}.items()}
    torch.save({"state_dict": content, "epoch": 5}, tmp_path / "model.pth.tar-5")
    load_snapshot(network, tmp_path / "model.pth.tar-5")
    for own, number in ours.items():
        assert network.backbone.state_dict()[own].eq(number % 7 + 1).all(), own
    (missing,) = (message for message in caplog.messages if "left as initialised" in message)
    assert "backbone." not in missing
    (unused,) = (message for message in caplog.messages if "not in the network" in message)
    assert "2 tensors" in unused


def test_zero_init_makes_each_block_its_shortcut() -> None:
    for kind in ("bn", "ibn", "ain"):
        for zero in (True, False):
            backbone = OSNet(kind, 0.25, zero_init_residual=zero)
            blocks = [module for module in backbone.modules() if isinstance(module, OmniScaleBlock)]
            assert len(blocks) == 6
            for block in blocks:
                features = torch.randn(2, block.conv1.conv.in_channels, 4, 2)  # pyright: ignore
                shortcut = block.downsample(features)
                expected = block.IN(shortcut) if block.place == "output" else shortcut
                assert torch.equal(block(features), expected.relu()) == zero


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["none", "residual", "output"])
def test_a_block_in_half_precision_is_near_float32(place: Place, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = OmniScaleBlock(64, 128, place)
    # Large, as activations may be.
    features = torch.randn(4, 64, 16, 8).contiguous(memory_format=CHANNELS_LAST) * 100
    with torch.no_grad():
        expected = block(features)
        with torch.autocast("cpu", dtype):
            found = block(features.to(dtype))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=CHANNELS_LAST)
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.02
