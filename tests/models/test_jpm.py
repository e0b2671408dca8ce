"""TransReID's jigsaw patch module against its definition."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from models.backbones.backbone import BackboneError
from models.backbones.jigsaw import jigsaw
from models.network import Embedder, ReidNetwork, build_backbone, build_network
from models.options import ModelParams
from models.outputs import concat_branches

TRANSREID = {
    "model": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k", "head": "jpm", "feature_dim": 0, "neck": "bnneck",
    "retrieval_of": "features", "patch_stride": 12,
}  # fmt: skip
SIZE = (64, 32)


def options_of(**options: object) -> ModelParams:
    return ModelParams.model_validate({**TRANSREID, "model": "timm:test_vit", **options})


def small(**options: object) -> ReidNetwork:
    torch.manual_seed(0)
    return build_network(options_of(**options), 5, SIZE)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def rearranged(patches: list[Tensor]) -> list[list[Tensor]]:
    """The patches of the four parts of an image, step by step."""
    line = patches[4:] + patches[:4]
    if len(line) % 2:
        line = [*line, line[-2]]
    half = len(line) // 2
    mixed = [patch for pair in zip(line[:half], line[half:], strict=True) for patch in pair]
    length = len(patches) // 4
    return [mixed[part * length : (part + 1) * length] for part in range(4)]


@pytest.mark.parametrize("num_patches", [5, 8, 10, 11, 15, 128, 210])
@pytest.mark.parametrize("prefix", [1, 3])
def test_patches_are_moved_shuffled_and_cut(num_patches: int, prefix: int) -> None:
    tokens = torch.randn(2, prefix + num_patches, 3)
    parts = jigsaw(tokens, prefix, 4)
    assert parts.shape == (4, 2, prefix + num_patches // 4, 3)
    for number, image in enumerate(tokens):
        for part, patches in enumerate(rearranged(list(image[prefix:]))):
            assert torch.equal(parts[part, number], torch.stack([*image[:prefix], *patches]))


def test_a_base_transformer_has_five_features_of_768_and_the_size_of_its_parts() -> None:
    with torch.device("meta"):
        options = ModelParams.model_validate(TRANSREID)
        network, plain = build_network(options, 751, (256, 128)), build_backbone(options, (256, 128))
        images = torch.empty(2, 3, 256, 128)
        output, embedding = network(images), network.embed(images)
    assert plain.grid == (21, 10)
    assert {name: tuple(branch.features.shape) for name, branch in output.items()} == {
        "global": (1, 2, 768),
        "parts": (4, 2, 768),
    }
    assert embedding.shape == (2, network.embedding_dim) == (2, 5 * 768)
    assert Embedder(network).branch_dims == (768,) * 5
    last = [plain.get_submodule(name) for name in plain.last]
    assert count(network.backbone) == count(plain) + count(*last) == 92_898_816
    assert count(network) - count(network.backbone) == 5 * (768 * 751 + 2 * 768)


@pytest.mark.parametrize("size", [SIZE, (76, 40), (64, 28)])
@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_reg4_dinov2"])
def test_the_features_are_those_of_a_plain_version(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network(options_of(model=f"timm:{name}"), 5, size).eval()
    backbone: Any = network.backbone
    own_block, own_norm = (backbone.get_submodule(module) for module in backbone.copies[0])
    for parameter in (*own_block.parameters(), *own_norm.parameters()):
        nn.init.normal_(parameter, std=0.1)
    images, prefix = torch.randn(2, 3, *size), backbone.num_prefix_tokens
    tokens = backbone._embed(images)
    for block in [*backbone.blocks][:-1]:
        tokens = block(tokens)
    expected = []
    for image in tokens:
        first, patches = image[:prefix], list(image[prefix:])
        features = [backbone.norm(backbone.blocks[-1](image[None]))[0, 0]]
        for part in rearranged(patches):
            features.append(own_norm(own_block(torch.stack([*first, *part])[None]))[0, 0] / 4)
        expected.append(torch.cat(features))
    torch.testing.assert_close(network.embed(images), torch.stack(expected))
    torch.testing.assert_close(concat_branches(network(images), "features"), torch.stack(expected))
    shared = backbone.norm(backbone.blocks[-1](tokens))[:, prefix:]
    torch.testing.assert_close(backbone(images).flatten(2).transpose(1, 2), shared)


def test_features_of_both_branches_start_as_those_of_the_last_block_and_are_trained_apart() -> None:
    network = small()
    backbone = network.backbone
    for shared, own in zip(backbone.last, *backbone.copies, strict=True):
        shared, own = backbone.get_submodule(shared).state_dict(), backbone.get_submodule(own).state_dict()
        torch.testing.assert_close(own, shared, rtol=0, atol=0)
    network(torch.randn(4, 3, *SIZE))["parts"].features.square().sum().backward()
    trained = {name for name, weight in backbone.named_parameters() if weight.grad is not None}
    last = tuple(f"{name}." for name in backbone.last)
    assert trained == {name for name, _ in backbone.named_parameters() if not name.startswith(last)}


def test_every_parameter_of_a_step_gets_a_gradient() -> None:
    network = small(retrieval_of="embeddings", feature_dim=8)
    output = network(torch.randn(4, 3, *SIZE))
    torch.stack([branch.scores.logits.square().sum() for branch in output.values()]).sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.requires_grad and weight.grad is None] == []


def test_weights_of_a_plain_transformer_fill_both_copies_of_the_last_block() -> None:
    backbone = small().backbone
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    state = backbone.complete_state(backbone.with_own_names(weights))
    backbone.load_state_dict(state)
    assert torch.equal(backbone.get_parameter("norm_jigsaw.weight"), weights["norm.weight"])


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({"model": "resnet_18", "patch_stride": 0}, SIZE, "of timm"),
        ({"model": "timm:swin_tiny_patch4_window7_224", "patch_stride": 0, "last_conv_stride": 2}, SIZE, "of timm"),
        ({"model": "timm:test_vit2"}, SIZE, "class token"),
        ({"model": "timm:eva02_tiny_patch14_224"}, SIZE, "rotary"),
        ({"patch_stride": 0}, (32, 32), "cuts the patches of an image into 4"),
    ],
)
def test_what_has_no_patches_to_rearrange_is_one_message(
    options: dict[str, object], size: tuple[int, int], words: str
) -> None:
    with torch.device("meta"), pytest.raises(BackboneError, match=words) as caught:
        build_network(options_of(**options), 3, size)
    assert caught.value.keys[:2] == ("model_params.head", "model_params.model")
