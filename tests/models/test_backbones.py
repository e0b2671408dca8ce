"""One contract over every backbone, and a new one in a single file."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from config.params import Params
from engine.optim import build_optimizer
from losses.criterion import build_criterion
from models.backbones import Backbone
from models.geometry import feature_map_size
from models.network import BACKBONES, ReidNetwork, build_backbone, build_head
from models.options import ModelParams

NAMES = get_args(ModelParams.model_fields["model"].annotation)


class TinyBackbone(Backbone):
    """Two strided convolutions."""

    def __init__(self) -> None:
        super().__init__(out_channels=6, stride=16, stages=(("first",), ("second",)))
        self.first = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        self.second = nn.Sequential(nn.Conv2d(4, 6, 5, stride=4, padding=2), nn.ReLU())

    def trunk(self, images: Tensor) -> Tensor:
        return self.first(images).relu()


def build(name: str, stride: int = 1) -> Backbone:
    if name == "tiny":
        return TinyBackbone()
    return build_backbone(ModelParams.model_validate({"model": name, "last_conv_stride": stride}))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [*NAMES, "tiny"])
def test_a_backbone_keeps_its_contract(name: str, stride: int) -> None:
    with torch.device("meta"):
        backbone = build(name, stride)
        if name != "tiny":
            expected = ModelParams.model_validate({"model": name, "last_conv_stride": stride}).stride
            assert backbone.stride == expected
        for height, width in ((256, 128), (384, 128), (100, 50), (33, 17)):
            feature_map = backbone(torch.empty(2, 3, height, width))
            assert feature_map.shape == (2, backbone.out_channels, *feature_map_size(height, width, backbone.stride))
        first, second = backbone.both_maps(torch.empty(2, 3, 64, 32))
        assert first is second
        backbone.add_second_last_stage()
        first, second = backbone.both_maps(torch.empty(2, 3, 64, 32))
        assert first is not second
        assert first.shape == second.shape
    # Every parameter belongs to one stage.
    for key, _ in backbone.named_parameters():
        assert sum(key.startswith(f"{module}.") for stage in backbone.stages for module in stage) == 1, key


@pytest.mark.parametrize("name", ["resnet_18", "tiny"])
def test_a_second_last_stage_starts_as_a_copy_and_has_weights_of_its_own(name: str) -> None:
    backbone = build(name)
    plain = backbone.state_dict()
    backbone.add_second_last_stage()
    assert backbone.second_last is not None
    backbone.eval()
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(*backbone.both_maps(images))
    torch.testing.assert_close(backbone(images), backbone.both_maps(images)[0])
    backbone.both_maps(images)[1].sum().backward()
    reached = {key.partition(".")[0] for key, weight in backbone.named_parameters() if weight.grad is not None}
    assert reached == {key.partition(".")[0] for key, _ in backbone.named_parameters()} - {backbone.last}
    # A file without the second stage fills it with the first; one that has both is taken as it is.
    own = backbone.state_dict()
    for prefix in ("", "backbone."):
        filled = backbone.complete_state({prefix + key: value for key, value in plain.items()}, prefix)
        assert filled.keys() == {prefix + key for key in own}
    own[f"{backbone.second_last}.new"] = torch.tensor(5.0)
    assert backbone.complete_state(own) == own


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_a_resnet_are_named_as_torchvision_names_them(name: str) -> None:
    with torch.device("meta"):
        expected = get_model(name.replace("_", "")).state_dict()
        own = build(name).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in own.items()} == shapes


def test_every_documented_backbone_can_be_built() -> None:
    assert set(NAMES) == BACKBONES.keys()


def test_zero_init_makes_each_block_its_shortcut() -> None:
    for module in build_backbone(ModelParams(model="resnet_18", zero_init_residual=True)).modules():
        if hasattr(module, "bn2"):
            assert module.bn2.weight.abs().sum() == 0  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


def test_a_new_backbone_trains_a_step() -> None:
    torch.manual_seed(0)
    backbone = TinyBackbone()
    backbone.add_second_last_stage()
    options, channels = ModelParams(pcb_n_parts=2, feature_dim=8, feature_global_dim=4), backbone.out_channels
    heads = {
        "parts": build_head(options, channels, 2, 4, 3, is_global=False),
        "global": build_head(options, channels, 1, 4, 3, is_global=True),
    }
    params = Params.model_validate({"tri_loss_margin": 0.3, "lr": {"base_lr": 0.1, "fc_lr": 0.1}})
    network, criterion = ReidNetwork(backbone, heads), build_criterion(params)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    optimizer = build_optimizer(params, network, criterion)
    losses = criterion(network(torch.randn(4, 3, 64, 32)), torch.tensor([0, 0, 1, 2])).losses
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    assert [name for name, weight in network.named_parameters() if torch.equal(weight, before[name])] == []
