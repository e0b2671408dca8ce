"""One contract over every backbone."""

from typing import get_args

import pytest
import torch

from models.backbones import DEPTHS, build_backbone, with_second_stage4
from models.geometry import feature_map_size
from models.options import ModelParams

NAMES = get_args(ModelParams.model_fields["model"].annotation)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_gives_the_map_that_geometry_foretells(name: str, stride: int) -> None:
    options = ModelParams.model_validate({"model": name, "last_conv_stride": stride})
    with torch.device("meta"):
        backbone = build_backbone(options)
        for height, width in ((256, 128), (384, 128), (100, 50), (33, 17)):
            feature_map = backbone(torch.empty(2, 3, height, width))
            assert feature_map.shape == (2, backbone.out_channels, *feature_map_size(height, width, stride))


@pytest.mark.parametrize("name", NAMES)
def test_backbone_weights_are_named_as_torchvision_names_them(name: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        expected = get_model(name.replace("_", "")).state_dict()
        own = build_backbone(ModelParams.model_validate({"model": name})).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in own.items()} == shapes


def test_every_documented_backbone_can_be_built() -> None:
    assert set(NAMES) == DEPTHS.keys()


def test_zero_init_makes_each_block_its_shortcut() -> None:
    for module in build_backbone(ModelParams(model="resnet_18", zero_init_residual=True)).modules():
        if hasattr(module, "bn2"):
            assert module.bn2.weight.abs().sum() == 0  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_last_stage_starts_as_a_copy_and_has_weights_of_its_own(name: str) -> None:
    options = ModelParams.model_validate({"model": name, "global_own_stage4": True, "pcb_n_parts": 2})
    with torch.device("meta"):
        first, second = build_backbone(options).both_maps(torch.empty(2, 3, 64, 32))
        assert first.shape == second.shape
    if name != "resnet_18":
        return
    backbone = build_backbone(options)
    assert backbone.layer4_global is not None
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(*backbone.eval().both_maps(images))
    torch.testing.assert_close(backbone(images), backbone.both_maps(images)[0])
    backbone.both_maps(images)[1].sum().backward()
    assert all(weight.grad is None for weight in backbone.layer4.parameters())
    assert all(weight.grad is not None for weight in backbone.layer4_global.parameters())
    assert backbone.conv1.weight.grad is not None


def test_without_a_second_stage_both_maps_are_one() -> None:
    first, second = build_backbone(ModelParams(model="resnet_18")).both_maps(torch.randn(2, 3, 64, 32))
    assert first is second


def test_a_file_without_second_stage_fills_it_with_the_first() -> None:
    state = {"x.layer3.w": torch.tensor(3.0), "x.layer4.w": torch.tensor(4.0)}
    filled = with_second_stage4(state, "x.")
    assert filled == {**state, "x.layer4_global.w": torch.tensor(4.0)}
    own = {**state, "x.layer4_global.w": torch.tensor(5.0)}
    assert with_second_stage4(own, "x.") == own
