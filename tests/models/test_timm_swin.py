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
