"""MGN and LightMBN: structure, sizes and starts of their branches."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.registry import build_backbone
from models.erasing import TopDropBlock, top_rows
from models.multi_branch import ChannelPooling
from models.network import Embedder, ReidNetwork, build_network
from models.options import ModelParams

MGN = {"head": "mgn", "model": "resnet_50", "feature_dim": 256, "part_pooling": "gem", "global_pooling": "gem"}
LIGHTMBN = {"head": "lightmbn", "model": "osnet_x1_0", "feature_dim": 512}
SIZE = (96, 32)
HEADS = ("mgn", "lightmbn")


def options_of(**options: object) -> ModelParams:
    return ModelParams.model_validate({"neck": "bnneck", **options})


def small(head: str, model: str = "osnet_x0_25", **options: object) -> ReidNetwork:
    torch.manual_seed(0)
    return build_network(options_of(head=head, model=model, feature_dim=8, **options), 5, SIZE)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_mgn_on_resnet_50_has_eight_features_of_256_and_the_size_of_its_parts() -> None:
    with torch.device("meta"):
        network = build_network(options_of(**MGN), 751)
        output = network(torch.empty(2, 3, 384, 128))
        backbone = build_backbone(options_of(**MGN), (384, 128))
    assert [tuple(branch.embeddings.shape) for branch in output.values()] == [(n, 2, 256) for n in (1, 1, 2, 1, 3)]
    assert network.embedding_dim == 2048
    layer3, layer4 = backbone.get_submodule("layer3"), backbone.get_submodule("layer4")
    heads = 8 * (2048 * 256 + 2 * 256) + 5  # reductions, normalisations and powers
    trained = count(backbone) + 2 * (count(layer3, layer4) - count(layer3.get_submodule("0"))) + heads
    assert count(network) - count(*network.classifiers()) == trained == 68_807_749
    assert count(*network.classifiers()) == 8 * 256 * 751
    assert all(feature_map.shape == (2, 2048, 24, 8) for feature_map in network.backbone.maps(empty(384, 128)))


def empty(*size: int) -> Tensor:
    return torch.empty(2, 3, *size, device="meta")


def test_the_global_branch_of_mgn_has_the_stride_that_it_is_given_and_the_others_stride_1() -> None:
    with torch.device("meta"):
        maps = build_network(options_of(**MGN, last_conv_stride=2), 5).backbone.maps(empty(384, 128))
    assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(12, 4), (24, 8), (24, 8)]


def test_lightmbn_on_osnet_has_seven_necks_of_512() -> None:
    with torch.device("meta"):
        network = build_network(options_of(**LIGHTMBN), 751)
        output = network(torch.empty(2, 3, 384, 128))
        backbone = build_backbone(options_of(**LIGHTMBN), (384, 128))
    assert [tuple(branch.embeddings.shape) for branch in output.values()] == [(n, 2, 512) for n in (1, 1, 1, 2, 2)]
    assert (network.embedding_dim, Embedder(network).branch_dims) == (3584, (512,) * 7)
    _, *others = backbone.get_submodule("conv3").children()
    rest = [backbone.get_submodule(name) for name in ("conv4", "conv5")]
    block = backbone.get_submodule("conv4.1")
    # Five reductions, seven normalisations, and the shared layers of the channels.
    heads = 5 * 512 * 512 + 7 * 2 * 512 + (256 * 512 + 2 * 512)
    expected = count(backbone) + 2 * count(*others, *rest) + count(block) + heads
    assert count(network) - count(*network.classifiers()) == expected == 6_460_696


@pytest.mark.parametrize("head", ["mgn", "lightmbn"])
@pytest.mark.parametrize("model", ["resnet_18", "osnet_ain_x0_25"])
def test_branches_start_as_copies_and_have_weights_of_their_own(head: str, model: str) -> None:
    network = small(head, model).eval()
    backbone = network.backbone
    for copies in backbone.copies:
        for name, copy in zip(backbone.last, copies, strict=True):
            own, copied = backbone.get_submodule(name).state_dict(), backbone.get_submodule(copy).state_dict()
            torch.testing.assert_close(own, copied, rtol=0, atol=0)
            assert backbone.stages_above(f"{copy}.0.weight") == backbone.stages_above(f"{name}.0.weight")
    network.train()
    output = network(torch.randn(4, 3, *SIZE))
    torch.stack([branch.scores.logits.square().sum() for branch in output.values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    # A loss of one branch leaves the copies of the others alone.
    network.zero_grad()
    network(torch.randn(4, 3, *SIZE))["parts2"].features.square().sum().backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained & {name for name, _ in backbone.named_parameters() if "branch2" in name}
    first = tuple(f"{name}." for name in (*backbone.last, *backbone.added))
    assert not any("branch3" in name or name.startswith(first) for name in trained)


@pytest.mark.parametrize("head", ["mgn", "lightmbn"])
@pytest.mark.parametrize("options", [{"model": "resnet_18", "ibn": True, "non_local": True}, {"model": "osnet_x0_25"}])
def test_weights_of_a_plain_backbone_fill_all_branches(head: str, options: dict[str, object]) -> None:
    network = small(head, **options)  # pyright: ignore[reportArgumentType]
    plain = build_backbone(options_of(model=options["model"]), SIZE)
    nn.init.normal_(next(plain.parameters()))
    backbone = network.backbone
    plain_state = {**{key: value for key, value in backbone.state_dict().items() if ".non_local_" in key}}
    completed = backbone.complete_state({**plain_state, **plain.state_dict()})
    backbone.load_state_dict({**backbone.state_dict(), **completed})
    for copies in backbone.copies:
        for name, copy in zip(backbone.last, copies, strict=True):
            if "non_local" not in name:
                own, copied = backbone.get_submodule(name).state_dict(), backbone.get_submodule(copy).state_dict()
                torch.testing.assert_close(own, copied, rtol=0, atol=0)
    whole = network.state_dict()
    prefixed = {f"b.{key}": value for key, value in backbone.state_dict().items()}
    assert backbone.complete_state(prefixed, "b.").keys() == prefixed.keys()
    again = small(head, **options)  # pyright: ignore[reportArgumentType]
    again.load_state_dict(whole)
    images = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(again.eval().embed(images), network.eval().embed(images), rtol=0, atol=0)


def test_a_backbone_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        build_network(options_of(head="mgn", model="timm:resnet10t"), 5, SIZE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_drop_block_drops_the_rows_with_the_largest_activation(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    feature_map = torch.randn(3, 5, 9, 4, generator=generator).to(dtype) * 100
    dropped = TopDropBlock(0.33)(feature_map)
    for image, result in zip(feature_map.double(), dropped.double(), strict=True):
        strength = [max(float(image[:, row, x].square().sum()) for x in range(4)) for row in range(9)]
        highest = sorted(range(9), key=lambda row: -strength[row])[:3]
        for row in range(9):
            assert torch.equal(result[:, row], torch.zeros(5, 4).double() if row in highest else image[:, row])
    assert TopDropBlock(0.33).eval()(feature_map) is feature_map


def test_of_equal_rows_the_drop_block_drops_the_upper_ones() -> None:
    assert top_rows(torch.zeros(2, 3, 4, 2), 2).tolist() == [[True, True, False, False]] * 2


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_channels_are_halves_of_the_pooled_map_with_shared_layers_and_a_batch_of_their_own(
    kind: Literal["avg", "max"],
) -> None:
    pooling = ChannelPooling(6, 4, kind)
    nn.init.normal_(pooling.bn.weight)
    feature_map = torch.randn(5, 6, 3, 2)
    pooled = feature_map.mean((2, 3)) if kind == "avg" else feature_map.amax((2, 3))
    mean, variance = torch.zeros(4), torch.ones(4)
    result = pooling(feature_map)
    for half, found in zip((pooled[:, :3], pooled[:, 3:]), result, strict=True):
        reduced = half @ pooling.reduction.weight.T
        mean, variance = 0.9 * mean + 0.1 * reduced.mean(0), 0.9 * variance + 0.1 * reduced.var(0)
        normalised = (reduced - reduced.mean(0)) / (reduced.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(found, (normalised * pooling.bn.weight).clamp_min(0))
    torch.testing.assert_close(pooling.bn.running_mean, mean)
    torch.testing.assert_close(pooling.bn.running_var, variance)


def lightmbn_features(network: ReidNetwork, images: Tensor, whole: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The seven embeddings in evaluation, step by step as the authors' code."""
    backbone, heads = network.backbone, network.branches
    trunk = backbone.trunk(images)
    first, second, third = (backbone.run(names, trunk) for names in (backbone.last, *backbone.copies))
    first = backbone.get_submodule("bottleneck")(first)
    upper, lower = second.chunk(2, dim=2)
    pooled = {"global": [whole(first)], "drop": [first.amax((2, 3))], "global2": [second.amax((2, 3))]}
    pooled["parts2"] = [upper.mean((2, 3)), lower.mean((2, 3))]
    layers = heads["channels"].pooling
    assert isinstance(layers, ChannelPooling)
    pooled["channels"] = [layers.bn(layers.reduction(half)).relu() for half in whole(third).chunk(2, dim=1)]
    result = []
    for name, head in zip(heads, network.heads(), strict=True):
        for part, vector in enumerate(pooled[name]):
            reduced = vector if head.reduction is None else vector @ head.reduction[part]
            assert head.bn is not None
            start = part * head.dim
            rows = slice(start, start + head.dim)
            values = (value[rows] for value in head.bn.state_dict().values() if value.dim())
            weight, bias, mean, variance = values
            result.append(F.batch_norm(reduced, mean, variance, weight, bias))
    return result


@pytest.mark.parametrize(
    ("model", "whole"), [("osnet_x0_25", lambda x: x.mean((2, 3))), ("resnet_18", lambda x: x.amax((2, 3)))]
)
def test_the_embedding_of_lightmbn_is_that_of_a_plain_version(model: str, whole: Callable[[Tensor], Tensor]) -> None:
    network = small("lightmbn", model)
    for _ in range(2):
        network(torch.randn(8, 3, *SIZE))
    network.eval()
    images = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(network.embed(images), torch.cat(lightmbn_features(network, images, whole), dim=1))
