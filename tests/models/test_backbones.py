"""One contract over every backbone, and a new one in a single file."""

from itertools import product

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from config.params import Params
from engine.optim import build_optimizer
from losses.criterion import build_criterion
from models.backbones.backbone import Backbone, BackboneError
from models.backbones.registry import BACKBONES, OSNETS, BackboneEntry, map_size
from models.backbones.resnet import DEPTHS
from models.backbones.timm_stages import outline_of
from models.network import build_backbone, build_network
from models.options import ModelParams
from utils.errors import ParamsError

TIMM = [
    f"timm:{name}"
    for name in (
        "resnet10t", "test_resnet.r160_in1k", "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035",
        "tf_efficientnet_lite0", "convnext_atto", "regnetx_002", "densenet121", "resnetv2_18",
    )
]  # fmt: skip
SIZE = (64, 32)


class TinyBackbone(Backbone):
    """Two strided convolutions."""

    def __init__(self) -> None:
        super().__init__(6, (("first",), ("second",)))
        self.first = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        self.second = nn.Sequential(nn.Conv2d(4, 6, 5, stride=4, padding=2), nn.ReLU())

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        return self.first(images).relu()


class TinyTransformer(Backbone):
    """Patches with a position embedding and a class token, which takes part in the last stage."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__(8, (("embed", "position", "class_token"), ("last_block",)))
        rows, columns = image_size[0] // 16, image_size[1] // 16
        self.embed = nn.Conv2d(3, 8, 16, stride=16)
        self.position = nn.Parameter(torch.zeros(8, rows, columns))
        self.class_token = nn.Parameter(torch.zeros(8, 1))
        self.last_block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def maps(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        patches = self.embed(images) + self.position
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2)], dim=2)
        tokens = self.last_block(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens[..., 1:].unflatten(2, patches.shape[2:]), tokens[..., :1, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images)[0]


TRIAL = {
    "tiny": BackboneEntry(lambda *_: TinyBackbone()),
    "tiny_transformer": BackboneEntry(lambda _, image_size: TinyTransformer(image_size)),
}


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more backbones."""
    for name, entry in TRIAL.items():
        monkeypatch.setitem(BACKBONES, name, entry)


def options_of(name: str, **options: object) -> ModelParams:
    # Not validated: the values of `model` are fixed at import.
    return ModelParams.model_construct(**{**dict(ModelParams()), "model": name, **options})


def build(name: str, stride: int = 1, size: tuple[int, int] = SIZE, **options: object) -> Backbone:
    return build_backbone(options_of(name, last_conv_stride=stride, **options), size)


# Settings of ResNets that change their layers.
CHANGED = {"ibn": True, "non_local": True}
FASTREID = {"resnet_variant": "fastreid"}
SIZES = [(256, 128), (384, 128), (100, 50), (33, 17)]
SMALL = ["resnet_18", "resnet_50"]
"""One of each kind of block; the deeper only repeat them."""


# Odd sizes do not divide into the patches of the transformer.
@pytest.mark.parametrize(
    ("name", "size", "options", "stride"),
    [
        *product([*SMALL, "tiny"], SIZES, [{}], [1, 2]),
        *product([name for name in DEPTHS if name not in SMALL], SIZES[-1:], [{}], [1, 2]),
        *product(TIMM, [(256, 128), (100, 50)], [{}], [1, 2]),
        *product(["tiny_transformer"], SIZES[:2], [{}], [1, 2]),
        *product(["timm:test_vit", "timm:test_vit2", "timm:vit_small_patch16_dinov3"], SIZES, [{}], [1]),
        *product(DEPTHS, SIZES[-1:], [CHANGED], [1, 2]),
        *product(["resnet_18"], [*SIZES, (16, 16), (35, 36), (98, 18)], [FASTREID], [1, 2]),
        *product(["osnet_x0_25", "osnet_ain_x0_25"], SIZES, [{}], [1]),
        *product(OSNETS, SIZES[-1:], [{}], [1]),
    ],
)
@pytest.mark.usefixtures("trial")
def test_a_backbone_keeps_its_contract(
    name: str, size: tuple[int, int], options: dict[str, object], stride: int
) -> None:
    with torch.device("meta"):
        backbone = build(name, stride, size, **options)
        feature_map = backbone(torch.empty(2, 3, *size))
        maps = backbone.maps(torch.empty(2, 3, *size))
    # That of a ResNet is computed without it.
    rows, columns = map_size(options_of(name, last_conv_stride=stride, **options), size)
    assert feature_map.shape == (2, backbone.out_channels, rows, columns)
    assert maps[0].shape == feature_map.shape
    assert maps[-1].shape[:2] == feature_map.shape[:2]
    prefixes = [prefix for stage in backbone.stage_names for prefix in stage]
    for key, _ in backbone.named_parameters():
        assert sum(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes) == 1, key
    assert backbone.stage_names[-1] == backbone.last
    assert all(isinstance(backbone.get_submodule(name), nn.Module) for name in backbone.last)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_18", {}),
        ("resnet_18", CHANGED),
        ("tiny", {}),
        ("osnet_x0_25", {}),
        ("osnet_ain_x0_25", {}),
        *((f"timm:{name}", {}) for name in ("resnet10t", "mobilenetv2_035", "convnext_atto")),
    ],
)
@pytest.mark.usefixtures("trial")
def test_the_last_stage_of_the_global_branch_starts_as_a_copy_and_has_weights_of_its_own(
    name: str, options: dict[str, bool]
) -> None:
    backbone = build(name, 1, SIZE, **options)
    plain = backbone.state_dict()
    images = torch.randn(2, 3, *SIZE)
    assert len(backbone.maps(images)) == 1
    backbone.add_copy("global")
    (own_names,) = backbone.copies
    assert backbone.stage_names[-1] == (*backbone.last, *own_names)
    backbone.eval()
    torch.testing.assert_close(*backbone.maps(images))
    torch.testing.assert_close(backbone(images), backbone.maps(images)[0])
    backbone.maps(images)[-1].sum().backward()
    shared = tuple(f"{module}." for module in backbone.last)
    for key, weight in backbone.named_parameters():
        assert (weight.grad is None) == key.startswith(shared), key
    # A file without the copy fills it with the shared stage; one that has both is taken as it is.
    own = backbone.state_dict()
    for prefix in ("", "backbone."):
        filled = backbone.complete_state({prefix + key: value for key, value in plain.items()}, prefix)
        assert filled.keys() == {prefix + key for key in own}
    own[f"{own_names[-1]}.new"] = torch.tensor(5.0)
    assert backbone.complete_state(own) == own


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_what_timm_makes_of_it(name: str) -> None:
    whole = timm.create_model(name.removeprefix("timm:"), num_classes=0, global_pool="").eval()
    backbone = build(name, stride=2).eval()
    backbone.load_state_dict(whole.state_dict())
    images = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(backbone(images), whole(images))


@pytest.mark.parametrize("name", TIMM)
def test_last_stride_1_doubles_the_map_with_the_same_weights_and_dilation(name: str) -> None:
    with torch.device("meta"):
        half, whole = (build(name, stride) for stride in (2, 1))
        assert whole(torch.empty(1, 3, 256, 128)).shape[2:] == (16, 8)
        assert half(torch.empty(1, 3, 256, 128)).shape[2:] == (8, 4)
    assert {key: value.shape for key, value in whole.state_dict().items()} == {
        key: value.shape for key, value in half.state_dict().items()
    }
    convolutions = [module for module in whole.modules() if isinstance(module, nn.Conv2d)]
    assert {module.dilation for module in convolutions} == {(1, 1)}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_resnet_is_the_same_from_torchvision_and_from_timm(stride: int) -> None:
    ours, theirs = (build(name, stride).eval() for name in ("resnet_50", "timm:resnet50"))
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, *SIZE)
    torch.testing.assert_close(theirs(images), ours(images), rtol=1e-5, atol=1e-5)
    assert [depth for key in ours.state_dict() if (depth := ours.stages_above(key)) != theirs.stages_above(key)] == []


@pytest.mark.parametrize(
    ("name", "options", "key", "words"),
    [
        ("hrnet_w18_small", {}, "model", "do not run one after another"),
        ("beit_base_patch16_224", {}, "model", "256"),
        ("naflexvit_base_patch16_gap", {}, "model", "not a feature map"),
        ("mambaout_femto", {}, "model", "not a feature map"),
        ("resnetblur18", {"last_conv_stride": 1}, "last_conv_stride", "1 is impossible for timm:resnetblur18"),
        ("vgg11", {"last_conv_stride": 1}, "last_conv_stride", "1 is impossible for timm:vgg11"),
        ("mobilenetv2_035", {"zero_init_residual": True}, "zero_init_residual", "set it to false"),
    ],
)
def test_what_a_network_of_timm_cannot_do_is_one_message(
    name: str, options: dict[str, object], key: str, words: str
) -> None:
    with torch.device("meta"), pytest.raises(BackboneError, match=words) as caught:
        build_backbone(options_of(f"timm:{name}", **options), SIZE)
    assert caught.value.keys[0] == f"model_params.{key}"


class Between(nn.Module):
    """Two convolutions, and an activation in place between them that is no module."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).relu_())


def test_what_a_network_does_between_its_modules_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.backbones.timm_stages.create_model", lambda _: Between())
    with pytest.raises(BackboneError, match="do not run one after another"):
        outline_of("between")


def test_a_size_too_small_for_the_network_is_one_message() -> None:
    with pytest.raises(BackboneError, match="timm:convnext_atto does not run on images of 33 x 17") as caught:
        map_size(options_of("timm:convnext_atto", last_conv_stride=2), (33, 17))
    assert caught.value.keys == ("model_params.model", "img_h", "img_w")


@pytest.mark.parametrize("name", DEPTHS)
def test_the_weights_of_a_resnet_are_named_as_torchvision_names_them(name: str) -> None:
    with torch.device("meta"):
        expected = get_model(name.replace("_", "")).state_dict()
        own = build(name).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in own.items()} == shapes


def test_a_backbone_without_imagenet_weights_says_so() -> None:
    with pytest.raises(ParamsError, match="imagenet_pretrain: there are no weights for TinyBackbone"):
        TinyBackbone().load_imagenet()


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(("name", "options"), [("resnet_18", {}), ("resnet_18", CHANGED), ("timm:resnet10t", {})])
def test_zero_init_makes_each_block_its_shortcut(name: str, options: dict[str, bool], zero: bool) -> None:
    modules = build_backbone(options_of(name, zero_init_residual=zero, **options), SIZE).modules()
    blocks = [module for module in modules if hasattr(module, "bn2")]
    for block in blocks:
        assert block.bn2.weight.abs().sum().eq(0) == zero  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert blocks


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
    token = network.backbone.maps(images)[-1].flatten(1)
    torch.testing.assert_close(
        network(images)["global"].embeddings, token[None] @ network.get_parameter("branches.global.reduction")
    )
