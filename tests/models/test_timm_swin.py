"""Swin Transformers of timm against timm itself."""

import pytest
import timm
import torch

from models.backbones import from_timm
from models.backbones.backbone import Backbone, BackboneError
from models.network import build_backbone
from models.options import ModelParams

NAME = "swin_tiny_patch4_window7_224"


def build(size: tuple[int, int], **options: object) -> Backbone:
    torch.manual_seed(0)
    given = {"model": f"timm:{NAME}", "last_conv_stride": 2, **options}
    return build_backbone(ModelParams.model_validate(given), size)


def test_the_map_is_that_of_timm_and_its_weights_fit_images_of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model(NAME, num_classes=0, global_pool="", img_size=(64, 32), always_partition=True).eval()
    monkeypatch.setattr(from_timm, "pretrained_state", lambda _: whole.state_dict())
    backbone = build((64, 32)).eval()
    backbone.load_imagenet()
    images = torch.randn(2, 3, 64, 32)
    expected = whole(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(images), expected)
    assert [feature_map.shape for feature_map in backbone.maps(images)] == [(2, 768, 2, 1)]
    with torch.device("meta"):
        published, other = timm.create_model(NAME, num_classes=0), build((256, 128))
        shapes = {key: value.shape for key, value in published.state_dict().items()}
        assert {key: value.shape for key, value in other.state_dict().items()} == shapes
        assert other(torch.empty(1, 3, 256, 128)).shape == (1, 768, 8, 4)


def test_the_global_branch_has_a_copy_of_the_last_stage() -> None:
    backbone, images = build((64, 32)).eval(), torch.randn(1, 3, 64, 32)
    backbone.add_copy("global")
    shared, own = backbone.maps(images)
    torch.testing.assert_close(shared, own)
    assert {backbone.stages_above(key) for key, _ in backbone.named_parameters()} == {0, 1, 2, 3, 4}


def test_soliders_layers_scale_and_shift_each_merged_map_by_the_semantic_weight() -> None:
    backbone, plain = build((64, 32), semantic_weight=0.2).eval(), build((64, 32)).eval()
    state = backbone.state_dict()
    for name, value in state.items():
        if ".semantic." in name:
            torch.nn.init.normal_(value)
    backbone.load_state_dict(state)
    plain.load_state_dict({name: value for name, value in state.items() if ".semantic." not in name})
    images = torch.randn(2, 3, 64, 32)
    features = plain.get_submodule("patch_embed")(images)
    weights = torch.tensor([[0.2, 0.8]])
    for number, layer in enumerate(plain.get_submodule("layers").children()):
        features = layer.get_submodule("downsample")(features)
        if number:
            amounts = []
            for name in ("scale", "shift"):
                linear = torch.nn.Linear(2, features.shape[-1])
                start = f"layers.{number}.downsample.semantic.{name}_"
                linear.load_state_dict({"weight": state[f"{start}weight"], "bias": state[f"{start}bias"]})
                amounts.append(linear(weights).flatten())
            features = features * torch.nn.functional.softplus(amounts[0]) + amounts[1]
        # These pad another way, as the importer's test proves.
        features = backbone.get_submodule(f"layers.{number}.blocks")(features)
    expected = plain.get_submodule("norm")(features).permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(images), expected)
    assert not torch.allclose(expected, plain(images), atol=0.1)


def test_soliders_layers_are_not_trained() -> None:
    backbone, plain = build((64, 32), semantic_weight=0.2), build((64, 32))
    assert [name for name, _ in backbone.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"last_conv_stride": 1}, "last_conv_stride", "set it to 2"),
        ({"patch_stride": 2}, "patch_stride", "vision transformer"),
        ({"zero_init_residual": True}, "zero_init_residual", "set it to false"),
    ],
)
def test_what_cannot_be_built_is_one_message(options: dict[str, object], key: str, words: str) -> None:
    with torch.device("meta"), pytest.raises(BackboneError, match=words) as caught:
        build((64, 32), **options)
    assert caught.value.keys == (f"model_params.{key}", "model_params.model")
