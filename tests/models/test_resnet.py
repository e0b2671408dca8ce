"""IBN-a and non-local blocks, against slow references written from the papers."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18, resnet50

from models.backbones.resnet import IBN, NonLocal, ResNet
from models.network import ReidNetwork, build_network
from models.options import ModelParams
from models.pretrained import load_snapshot

CHANNELS_LAST = torch.channels_last


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """With random weights and biases everywhere, also where they start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return values.to(dtype).contiguous(memory_format=CHANNELS_LAST)


def slow_ibn(features: Tensor, norm: IBN) -> Tensor:
    """In training: loops over channels, and over images where each has its own statistics."""
    result = torch.empty_like(features)
    half = features.shape[1] // 2
    for channel in range(features.shape[1]):
        of_image = channel < half
        layer, index = (norm.IN, channel) if of_image else (norm.BN, channel - half)
        for group in [[image] for image in range(len(features))] if of_image else [[*range(len(features))]]:
            values = features[group, channel]
            deviation = (values - values.mean()).square().mean().add(1e-5).sqrt()
            normalised = (values - values.mean()) / deviation
            result[group, channel] = normalised * layer.weight[index] + layer.bias[index]
    return result


def slow_non_local(features: Tensor, block: NonLocal) -> Tensor:
    """In evaluation: loops over images and pairs of positions. Wang et al. 2018, equations 1, 4 and 6."""

    def linear(layer: nn.Conv2d, vector: Tensor) -> Tensor:
        product = layer.weight[:, :, 0, 0] @ vector
        return product if layer.bias is None else product + layer.bias

    result = features.clone()
    _, _, rows, columns = features.shape
    positions = [(row, column) for row in range(rows) for column in range(columns)]
    for image in range(len(features)):
        for row, column in positions:
            theta, total = linear(block.theta, features[image, :, row, column]), 0
            for place in positions:
                vector = features[image, :, *place]
                total = total + (theta @ linear(block.phi, vector)) * linear(block.g, vector)
            added = linear(block.W, torch.as_tensor(total) / len(positions))
            added = (added - block.bn.running_mean) / (block.bn.running_var + block.bn.eps).sqrt()  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
            result[image, :, row, column] += added * block.bn.weight + block.bn.bias
    return result


def test_ibn_normalises_half_of_the_channels_by_image_and_the_rest_by_batch() -> None:
    norm = randomised(IBN(6).double())
    features = maps(3, 6, 4, 2) * 3 + 1
    expected = slow_ibn(features, norm)  # pyright: ignore[reportArgumentType]
    result = norm(features)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=CHANNELS_LAST)
    norm.eval()
    # By image in evaluation, too; the rest by the running statistics.
    torch.testing.assert_close(norm(features)[:, :3], expected[:, :3])
    assert (norm(features)[:, 3:] - expected[:, 3:]).abs().max() > 0.1


# More positions than inner channels, as many, and fewer.
@pytest.mark.parametrize(("size", "inner"), [((4, 2), 4), ((2, 2), 4), ((3, 1), 4), ((4, 2), 1), ((1, 1), 1)])
def test_a_non_local_block_adds_what_each_position_takes_from_all(size: tuple[int, int], inner: int) -> None:
    block = randomised(NonLocal(8, inner).double()).eval()
    block.bn.running_mean.fill_(0.3), block.bn.running_var.fill_(2.0)  # pyright: ignore
    features = maps(2, 8, *size)
    result = block(features)
    torch.testing.assert_close(result, slow_non_local(features, block))  # pyright: ignore[reportArgumentType]
    assert result.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("size", [(3, 2), (1, 2)])
def test_gradients_of_both_are_the_numerical_ones(size: tuple[int, int]) -> None:
    for module in (randomised(NonLocal(8, 4).double()), randomised(IBN(8).double())):
        names, weights = zip(*module.named_parameters(), strict=True)

        def compute(features: Tensor, *values: Tensor, module: nn.Module = module, names=names) -> Tensor:
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), features)

        assert torch.autograd.gradcheck(compute, (maps(3, 8, *size).requires_grad_(), *weights))


def test_a_non_local_block_starts_as_the_identity_that_learns() -> None:
    block, features = NonLocal(8, 4), maps(2, 8, 4, 2, dtype=torch.float32)
    result = block(features)
    assert torch.equal(result, features)
    (result * maps(2, 8, 4, 2, dtype=torch.float32).roll(1)).sum().backward()
    assert block.bn.weight.grad is not None
    assert block.bn.weight.grad.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [IBN, NonLocal])
# Undivided, the sums of the non-local block would exceed 65504, the largest number of float16.
@pytest.mark.parametrize(("channels", "size"), [(128, (16, 8)), (512, (8, 4))])
def test_half_precision_is_near_float32_at_large_values(
    kind: type[IBN] | type[NonLocal], channels: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = NonLocal(channels, channels // 2) if kind is NonLocal else IBN(channels)
    if isinstance(module, NonLocal):
        nn.init.ones_(module.bn.weight)
    features = maps(4, channels, *size, dtype=torch.float32).abs() * 12
    expected = module(features)
    with torch.autocast("cpu", dtype):
        result = module(features.to(dtype))
    assert result.dtype == dtype
    error = (result.float() - expected).norm() / expected.norm()
    assert error < 0.02


def build(seed: int = 0, **options: object) -> ReidNetwork:
    torch.manual_seed(seed)
    return build_network(ModelParams.model_validate({"model": "resnet_18", "feature_dim": 8, **options}), 3)


def placed(name: str, kind: type[nn.Module]) -> list[str]:
    with torch.device("meta"):
        backbone = ResNet(name, 1, ibn=True, non_local=True)
    return [key for key, module in backbone.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "layer2", "layer3"),
    [
        ("resnet_18", (0, 1), (0, 1)), ("resnet_34", (2, 3), (3, 4, 5)), ("resnet_50", (2, 3), (3, 4, 5)),
        ("resnet_101", (2, 3), (20, 21, 22)), ("resnet_152", (6, 7), (33, 34, 35)),
    ],
)  # fmt: skip
def test_non_local_blocks_follow_the_last_blocks_of_two_stages(
    name: str, layer2: tuple[int, ...], layer3: tuple[int, ...]
) -> None:
    expected = [f"layer2.non_local_{index}" for index in layer2] + [f"layer3.non_local_{index}" for index in layer3]
    assert placed(name, NonLocal) == expected


def test_fast_reids_resnet_pools_without_padding_and_has_other_non_local_blocks() -> None:
    with torch.device("meta"):
        backbone = ResNet("resnet_101", 1, non_local=True, variant="fastreid")
    blocks = {name: module.inner for name, module in backbone.named_modules() if isinstance(module, NonLocal)}
    places = ["layer2.non_local_2", "layer2.non_local_3", *(f"layer3.non_local_{index}" for index in range(14, 23))]
    assert blocks == dict.fromkeys(places, 1)
    features = maps(1, 64, 7, 6)
    pooled = backbone.maxpool(features)
    for row in range(3):
        for column in range(3):
            window = features[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            assert torch.equal(pooled[:, :, row, column], window.amax((2, 3)))
    assert pooled.shape == (1, 64, 3, 3)


def test_a_non_local_block_acts_where_its_name_says() -> None:
    backbone, plain = (ResNet("resnet_18", 1, non_local=True).eval(), ResNet("resnet_18", 1).eval())
    plain.load_state_dict({key: value for key, value in backbone.state_dict().items() if key in plain.state_dict()})
    for module in backbone.modules():
        if isinstance(module, NonLocal):
            nn.init.ones_(module.bn.weight)
    images = torch.randn(2, 3, 64, 32)
    features = plain.layer1(plain.maxpool(plain.relu(plain.bn1(plain.conv1(images)))))
    for stage, added in ((plain.layer2, backbone.layer2), (plain.layer3, backbone.layer3)):
        for index in range(2):
            features = added.get_submodule(f"non_local_{index}")(stage[index](features))
    torch.testing.assert_close(backbone.trunk(images), features)


@pytest.mark.parametrize(("name", "plain"), [("resnet_18", resnet18), ("resnet_50", resnet50)])
def test_ibn_has_the_published_names_and_as_many_parameters(name: str, plain: type) -> None:
    """Published: IBN-Net's resnet50_ibn_a, whose first three stages have it."""
    with torch.device("meta"):
        expected = {key: value.shape for key, value in plain().state_dict().items() if not key.startswith("fc.")}
        backbone = ResNet(name, 1, ibn=True)
        own = {key: value.shape for key, value in backbone.state_dict().items()}
        num_plain = sum(weight.numel() for weight in ResNet(name, 1).parameters())
    for key in [key for key in expected if key.split(".")[0] in ("layer1", "layer2", "layer3") and ".bn1." in key]:
        shape = expected.pop(key)
        half = tuple(length // 2 for length in shape)
        expected[key.replace("bn1.", "bn1.BN.")] = torch.Size(half)
        if key.endswith(("weight", "bias")):
            expected[key.replace("bn1.", "bn1.IN.")] = torch.Size(half)
    assert own == expected
    assert sum(weight.numel() for weight in backbone.parameters()) == num_plain
    assert own["layer1.0.bn1.IN.weight"] == (32,)


def torchvision_weights(seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return randomised(resnet18(), seed).state_dict()


def check_halves(state: dict[str, Tensor], weights: dict[str, Tensor], prefix: str = "") -> None:
    """That a state with IBN has the plain weights."""
    seen = set()
    for key, value in weights.items():
        name, _, kind = key.rpartition(".")
        if f"{prefix}{name}.BN.{kind}" in state:
            half = len(value) // 2 if value.dim() else 0
            assert torch.equal(state[f"{prefix}{name}.BN.{kind}"], value[half:] if half else value), key
            if kind in ("weight", "bias"):
                assert torch.equal(state[f"{prefix}{name}.IN.{kind}"], value[:half]), key
            seen.add(name)
        elif not key.startswith("fc."):
            assert torch.equal(state[prefix + key], value), key
    assert seen == {f"layer{stage}.{index}.bn1" for stage in (1, 2, 3) for index in (0, 1)}


def test_imagenet_weights_fill_both_halves_and_leave_non_local_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    weights = torchvision_weights()
    torch.save(weights, tmp_path / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    backbone = build(ibn=True, non_local=True).backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "non_local" in key}
    with caplog.at_level(logging.INFO):
        backbone.load_imagenet()
    check_halves(backbone.state_dict(), weights)
    for key, value in before.items():
        assert torch.equal(backbone.state_dict()[key], value), key
    assert caplog.text.count("model_params.ibn: the weights are of a ResNet without it; 6 batch normalisations") == 1


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_plain_snapshot_fills_both_halves_and_names_what_it_lacks(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = torchvision_weights()
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "plain.pth")
    network = build(ibn=True, non_local=True)
    with caplog.at_level(logging.INFO):
        load_snapshot(network, tmp_path / "plain.pth")
    check_halves(network.state_dict(), weights, "backbone.")
    assert "model_params.ibn" in caplog.text
    (missing,) = (message for message in caplog.messages if "left as initialised" in message)
    assert "backbone.layer3.non_local_1.theta.weight" in missing
    assert "bn1" not in missing


def test_weights_with_ibn_are_loaded_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published = randomised(build(ibn=True).backbone).state_dict()
    torch.save({f"module.{key}": value for key, value in published.items()}, tmp_path / "published.pth")
    network = build(1, ibn=True)
    load_snapshot(network, tmp_path / "published.pth")
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, published[key]), key
    assert "model_params.ibn" not in caplog.text
    # Without IBN the file's halves are named, as what they leave out.
    load_snapshot(build(1), tmp_path / "published.pth")
    assert "backbone.layer1.0.bn1.IN.weight" in caplog.text
