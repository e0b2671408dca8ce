"""Vision transformers of timm against timm itself and plain references."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn
from torch.nn import functional as F

from config.params import Params
from evaluate.core.load_model import load_trained_network
from models.backbones import from_timm
from models.backbones.backbone import Backbone, BackboneError
from models.backbones.registry import global_map_size, map_size
from models.network import build_backbone, build_network
from models.options import ModelParams
from models.pretrained import load_snapshot
from utils.checkpoint import Checkpoint, save_checkpoint

NAMES = {
    "test_vit": (64, 32), "test_vit2": (64, 32), "test_vit3": (48, 32), "vit_small_patch14_reg4_dinov2": (56, 28),
    "vit_small_patch16_dinov3": (48, 32), "eva02_tiny_patch14_224": (42, 28),
}  # fmt: skip
"""A size of images that is a whole number of patches for each; with and without class, registers, rotary embedding."""
SIZE = (64, 32)


def build(name: str = "test_vit", size: tuple[int, int] = SIZE, **options: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelParams.model_validate({"model": f"timm:{name}", **options}), size)


def drop_rates(backbone: Backbone) -> list[float]:
    return [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath) and module.drop_prob]


@pytest.mark.parametrize(("name", "size"), NAMES.items())
def test_the_tokens_are_those_of_timm(name: str, size: tuple[int, int]) -> None:
    options = {"img_size": size, "dynamic_img_size": False, "num_classes": 0, "global_pool": ""}
    whole = timm.create_model(name, **options).eval()
    backbone = build(name, size).eval()
    backbone.load_state_dict(whole.state_dict())
    images = torch.randn(2, 3, *size)
    tokens = whole(images)
    expected = tokens[:, whole.num_prefix_tokens :].transpose(1, 2)  # pyright: ignore[reportArgumentType]
    feature_map, *others = backbone.maps(images)
    torch.testing.assert_close(feature_map.flatten(2), expected)
    assert feature_map.shape[2:] == map_size(ModelParams.model_validate({"model": f"timm:{name}"}), size)
    # Where there is no class token, the global branch sees the patches.
    assert [seen.shape[2:] for seen in others] == [(1, 1)] * (whole.cls_token is not None)
    for seen in others:
        torch.testing.assert_close(seen.flatten(1), tokens[:, 0])


@pytest.mark.parametrize(("stride", "grid"), [(0, (4, 2)), (16, (4, 2)), (12, (5, 2)), (5, (10, 4))])
def test_overlapping_patches_are_windows_of_the_image(stride: int, grid: tuple[int, int]) -> None:
    backbone = build(patch_stride=stride).eval()
    images = torch.randn(2, 3, *SIZE)
    whole = timm.create_model("test_vit", num_classes=0, global_pool="").eval()
    own = backbone.state_dict()
    whole.load_state_dict({key: value for key, value in own.items() if key != "pos_embed"}, strict=False)
    windows = F.unfold(images, 16, stride=stride or 16).transpose(1, 2)
    patches = windows @ own["patch_embed.proj.weight"].flatten(1).T + own["patch_embed.proj.bias"]
    tokens = torch.cat([own["cls_token"].expand(2, 1, -1), patches], dim=1) + own["pos_embed"]
    expected = whole.norm(whole.blocks(tokens))  # pyright: ignore[reportCallIssue]
    feature_map, token = backbone.maps(images)
    assert feature_map.shape[2:] == grid
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), expected[:, 1:])
    torch.testing.assert_close(token.flatten(1), expected[:, 0])


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_position_embeddings_of_another_grid_are_resized_and_the_class_token_keeps_its_own(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backbone = build(patch_stride=12)
    positions = torch.randn(1, 1 + 8 * 4, 64) if prefix else torch.randn(1, 1 + 6 * 6, 64)
    grid = (8, 4) if prefix else (6, 6)
    resized = backbone.with_own_names({f"{prefix}pos_embed": positions})[f"{prefix}pos_embed"]
    planes = positions[:, 1:].transpose(1, 2).unflatten(2, grid)
    expected = F.interpolate(planes, (5, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resized[:, 1:], expected)
    assert torch.equal(resized[:, :1], positions[:, :1])
    assert f"position embedding resized from {grid[0]} x {grid[1]} to 5 x 2 patches" in caplog.text
    same = torch.randn(1, 11, 64)
    assert backbone.with_own_names({f"{prefix}pos_embed": same})[f"{prefix}pos_embed"] is same


def test_pretrained_weights_fit_images_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model("test_vit")
    monkeypatch.setattr(from_timm, "pretrained_state", lambda _: whole.state_dict())
    backbone = build()
    backbone.load_imagenet()
    own = backbone.state_dict()
    for key, value in whole.state_dict().items():
        if not key.startswith("head.") and key != "pos_embed":
            assert torch.equal(own[key], value), key
    planes = whole.state_dict()["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (10, 10))
    expected = F.interpolate(planes, (4, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(own["pos_embed"][:, 1:], expected)


def test_the_norm_of_averaged_tokens_is_that_of_every_token() -> None:
    backbone = build("test_vit2")
    weights = {"fc_norm.weight": torch.randn(64), "fc_norm.bias": torch.randn(64)}
    assert backbone.with_own_names(weights).keys() == {"norm.weight", "norm.bias"}


def test_a_snapshot_of_another_size_is_loaded_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ModelParams(model="timm:test_vit", feature_dim=8)
    earlier, network = build_network(options, 3, (96, 32)), build_network(options, 3, SIZE)
    path = tmp_path / "earlier.pth"
    torch.save(earlier.state_dict(), path)
    load_snapshot(network, path)
    assert "of another shape" not in caplog.text
    assert torch.equal(
        network.backbone.state_dict()["pos_embed"][:, 0], earlier.backbone.state_dict()["pos_embed"][:, 0]
    )


def test_stochastic_depth_rises_to_the_rate_and_is_drawn_from_the_seed() -> None:
    backbone, images = build(drop_path=0.6).train(), torch.randn(16, 3, *SIZE)
    rates = drop_rates(backbone)
    assert rates == pytest.approx(sorted(rates))
    assert rates[-1] == pytest.approx(0.6)

    def train(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return backbone(images)

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))
    assert torch.equal(backbone.eval()(images), build(drop_path=0.0).eval()(images))


def test_convolutional_networks_of_timm_have_stochastic_depth() -> None:
    backbone = build("convnext_atto", drop_path=0.5)
    assert max(drop_rates(backbone)) == pytest.approx(0.5)


def test_a_block_is_a_stage_and_the_last_has_the_final_norm() -> None:
    backbone = build()
    depth = len(timm.create_model("test_vit").blocks)  # pyright: ignore[reportArgumentType]
    assert backbone.last == (f"blocks.{depth - 1}", "norm")
    above = {key: backbone.stages_above(key) for key, _ in backbone.named_parameters()}
    assert above["norm.weight"] == 0
    assert {above[key] for key in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {depth}
    assert [above[f"blocks.{number}.mlp.fc1.weight"] for number in range(depth)] == [*reversed(range(depth))]


def test_the_global_branch_has_a_copy_of_the_last_block() -> None:
    backbone, images = build().eval(), torch.randn(2, 3, *SIZE)
    before = backbone.maps(images)
    backbone.add_copy("global")
    torch.testing.assert_close(backbone.maps(images), before)
    backbone.maps(images)[-1].sum().backward()
    shared = tuple(f"{module}." for module in backbone.last)
    for key, weight in backbone.named_parameters():
        assert (weight.grad is None) == key.startswith(shared), key


def test_stripes_see_patches_and_the_global_branch_the_class_token() -> None:
    options = ModelParams(model="timm:test_vit", feature_dim=0, pcb_n_parts=2, feature_global_dim="pooled", neck="none")
    network, images = build_network(options, 3, SIZE).eval(), torch.randn(2, 3, *SIZE)
    feature_map, token = network.backbone.maps(images)
    halves = [half.mean((2, 3)) for half in feature_map.chunk(2, dim=2)]
    torch.testing.assert_close(network.embed(images), torch.cat([*halves, token.flatten(1)], dim=1))
    single = build_network(ModelParams(model="timm:test_vit", feature_dim=0, neck="none"), 3, SIZE).eval()
    torch.testing.assert_close(single.embed(images), single.backbone.maps(images)[1].flatten(1))


def test_the_class_token_has_no_size() -> None:
    assert global_map_size(ModelParams(model="timm:test_vit"), SIZE) == (1, 1)
    assert global_map_size(ModelParams(model="timm:test_vit2"), SIZE) == (4, 2)


@pytest.mark.parametrize(
    ("options", "keys", "words"),
    [
        ({"semantic_weight": 0.2}, {"semantic_weight", "model"}, "Swin Transformer"),
        ({"patch_stride": 17}, {"patch_stride", "model"}, "at most 16"),
        ({"model": "timm:resnet10t", "patch_stride": 8}, {"patch_stride", "model"}, "vision transformer"),
        ({"model": "timm:vgg11", "last_conv_stride": 2, "drop_path": 0.1}, {"drop_path", "model"}, "set it to 0"),
        ({"last_conv_stride": 2}, {"last_conv_stride", "model"}, "set it to 1"),
        ({"zero_init_residual": True}, {"zero_init_residual", "model"}, "set it to false"),
        ({"model": "timm:deit_tiny_distilled_patch16_224"}, {"model"}, "without its pooling"),
        ({"model": "timm:vit_small_patch16_rope_mixed_224"}, {"model"}, "rotary"),
    ],
)
def test_what_cannot_be_built_is_one_message(options: dict[str, object], keys: set[str], words: str) -> None:
    with torch.device("meta"), pytest.raises(BackboneError, match=words) as caught:
        build_backbone(ModelParams.model_validate({"model": "timm:test_vit", **options}), SIZE)
    assert {*caught.value.keys} == {f"model_params.{key}" for key in keys}


def test_images_smaller_than_a_patch_are_one_message() -> None:
    with pytest.raises(BackboneError, match="do not fit into images of 12 x 32") as caught:
        build(size=(12, 32))
    assert caught.value.keys == ("model_params.model", "img_h", "img_w")


def test_every_parameter_of_a_step_gets_a_gradient() -> None:
    options = ModelParams(model="timm:test_vit", feature_dim=8, pcb_n_parts=2, feature_global_dim=4)
    network = build_network(options, 3, SIZE)
    sum(output.scores.logits.square().sum() for output in network(torch.randn(4, 3, *SIZE)).values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules())


def test_a_rotary_embedding_is_in_no_checkpoint_and_computed_again(tmp_path: Path) -> None:
    params = Params.model_validate({"img_h": 28, "img_w": 28, "model_params": {"model": "timm:eva02_tiny_patch14_224"}})
    network = build_network(params.model_params, 3, (28, 28)).eval()
    path = tmp_path / "model.pth"
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [0, 1, 2], {}))
    images = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(load_trained_network(path).network.eval().embed(images), network.embed(images))
