"""One contract over every backbone, and a new one in a single file."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from config.params import Params
from engine.optim import build_optimizer
from losses.criterion import build_criterion
from models.backbones.backbone import Backbone, feature_map_size
from models.backbones.registry import BACKBONES, BackboneEntry
from models.backbones.resnet import DEPTHS
from models.network import build_backbone, build_network
from models.options import ModelParams
from utils.errors import ParamsError

NAMES = list(BACKBONES)
SIZE = (64, 32)


class TinyBackbone(Backbone):
    """Two strided convolutions."""

    def __init__(self) -> None:
        super().__init__(out_channels=6, stride=16, stages=(("first",), ("second",)))
        self.first = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        self.second = nn.Sequential(nn.Conv2d(4, 6, 5, stride=4, padding=2), nn.ReLU())

    def trunk(self, images: Tensor) -> Tensor:
        return self.first(images).relu()


class TinyTransformer(Backbone):
    """Patches with a position embedding and a class token, which takes part in the last stage."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__(8, 16, (("embed", "position", "class_token"), ("last_block",)))
        rows, columns = feature_map_size(*image_size, 16)
        self.embed = nn.Conv2d(3, 8, 16, stride=16)
        self.position = nn.Parameter(torch.zeros(8, rows, columns))
        self.class_token = nn.Parameter(torch.zeros(8, 1))
        self.last_block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.embed(images) + self.position
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2)], dim=2)
        tokens = self.last_block(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens[..., 1:].unflatten(2, patches.shape[2:]), tokens[..., :1, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.both_maps(images)[0]


TRIAL = {
    "tiny": BackboneEntry(lambda *_: TinyBackbone(), lambda _: 16),
    "tiny_transformer": BackboneEntry(lambda _, image_size: TinyTransformer(image_size), lambda _: 16),
}


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more backbones."""
    for name, entry in TRIAL.items():
        monkeypatch.setitem(BACKBONES, name, entry)


def options_of(name: str, **options: object) -> ModelParams:
    # Not validated: the values of `model` are fixed at import.
    return ModelParams.model_construct(**{**dict(ModelParams()), "model": name, **options})


def build(name: str, stride: int = 1, size: tuple[int, int] = SIZE, **options: bool) -> Backbone:
    return build_backbone(options_of(name, last_conv_stride=stride, **options), size)


# Settings of ResNets that change their layers.
CHANGED = {"ibn": True, "non_local": True}
SIZES = [(256, 128), (384, 128), (100, 50), (33, 17)]


@pytest.mark.parametrize("stride", [1, 2])
# Odd sizes do not divide into the patches of the transformer.
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        *product([*NAMES, "tiny"], SIZES, [{}]),
        *product(["tiny_transformer"], SIZES[:2], [{}]),
        *product(DEPTHS, SIZES[-1:], [CHANGED]),
    ],
)
@pytest.mark.usefixtures("trial")
def test_a_backbone_keeps_its_contract(name: str, size: tuple[int, int], options: dict[str, bool], stride: int) -> None:
    with torch.device("meta"):
        backbone = build(name, stride, size, **options)
        feature_map = backbone(torch.empty(2, 3, *size))
        first, second = backbone.both_maps(torch.empty(2, 3, *size))
    assert backbone.stride == options_of(name, last_conv_stride=stride).stride
    assert feature_map.shape == (2, backbone.out_channels, *feature_map_size(*size, backbone.stride))
    assert first.shape == feature_map.shape
    assert second.shape[:2] == first.shape[:2]
    prefixes = [prefix for stage in backbone.stages for prefix in stage]
    for key, _ in backbone.named_parameters():
        assert sum(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes) == 1, key
    assert backbone.stages[-1] == (backbone.last,)
    assert backbone.last in dict(backbone.named_children())


@pytest.mark.parametrize(("name", "options"), [("resnet_18", {}), ("resnet_18", CHANGED), ("tiny", {})])
@pytest.mark.usefixtures("trial")
def test_the_last_stage_of_the_global_branch_starts_as_a_copy_and_has_weights_of_its_own(
    name: str, options: dict[str, bool]
) -> None:
    backbone = build(name, 1, SIZE, **options)
    plain = backbone.state_dict()
    images = torch.randn(2, 3, *SIZE)
    shared, same = backbone.both_maps(images)
    assert shared is same
    backbone.add_global_last_stage()
    assert backbone.stages[-1] == (backbone.last, backbone.global_last)
    backbone.eval()
    torch.testing.assert_close(*backbone.both_maps(images))
    torch.testing.assert_close(backbone(images), backbone.both_maps(images)[0])
    backbone.both_maps(images)[1].sum().backward()
    reached = {key.partition(".")[0] for key, weight in backbone.named_parameters() if weight.grad is not None}
    assert reached == {key.partition(".")[0] for key, _ in backbone.named_parameters()} - {backbone.last}
    # A file without the copy fills it with the shared stage; one that has both is taken as it is.
    own = backbone.state_dict()
    for prefix in ("", "backbone."):
        filled = backbone.complete_state({prefix + key: value for key, value in plain.items()}, prefix)
        assert filled.keys() == {prefix + key for key in own}
    own[f"{backbone.global_last}.new"] = torch.tensor(5.0)
    assert backbone.complete_state(own) == own


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_a_resnet_are_named_as_torchvision_names_them(name: str) -> None:
    with torch.device("meta"):
        expected = get_model(name.replace("_", "")).state_dict()
        own = build(name).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in own.items()} == shapes


def test_a_backbone_without_imagenet_weights_says_so() -> None:
    with pytest.raises(ParamsError, match="imagenet_pretrain: there are no weights for TinyBackbone"):
        TinyBackbone().load_imagenet()


@pytest.mark.parametrize("options", [{}, CHANGED])
def test_zero_init_makes_each_block_its_shortcut(options: dict[str, bool]) -> None:
    for module in build_backbone(options_of("resnet_18", zero_init_residual=True, **options), SIZE).modules():
        if hasattr(module, "bn2"):
            assert module.bn2.weight.abs().sum() == 0  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


@pytest.mark.parametrize(("name", "own_stage"), [("tiny", True), ("tiny_transformer", False)])
@pytest.mark.usefixtures("trial")
def test_a_new_backbone_trains_a_step(name: str, own_stage: bool) -> None:
    torch.manual_seed(0)
    options = options_of(name, pcb_n_parts=2, feature_dim=8, feature_global_dim=4, global_own_stage4=own_stage)
    params = Params.model_validate({"tri_loss_margin": 0.3, "lr": {"base_lr": 0.1, "fc_lr": 0.1}})
    network, criterion = build_network(options, 3, SIZE), build_criterion(params)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    optimizer = build_optimizer(params, network, criterion)
    losses = criterion(network(torch.randn(4, 3, *SIZE)), torch.tensor([0, 0, 1, 2])).losses
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    assert [name for name, weight in network.named_parameters() if torch.equal(weight, before[name])] == []


@pytest.mark.usefixtures("trial")
def test_the_global_head_sees_the_class_token() -> None:
    options = options_of("tiny_transformer", pcb_n_parts=2, feature_dim=8, feature_global_dim=4, neck="none")
    network, images = build_network(options, 3, SIZE), torch.randn(2, 3, *SIZE)
    token = network.backbone.both_maps(images)[1].flatten(1)
    torch.testing.assert_close(
        network(images)["global"].embeddings, token[None] @ network.get_parameter("branches.global.reduction")
    )
