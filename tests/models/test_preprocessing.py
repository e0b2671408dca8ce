"""The preprocessing that pretrained weights expect, against torchvision's and timm's own statements."""

import pytest
import timm
from timm.data.config import resolve_model_data_config
from torchvision.models import get_model_weights

from data.augmentation.normalisation import STATISTICS, normalisation_of
from models.backbones.registry import weights_preprocessing
from models.backbones.resnet import DEPTHS


@pytest.mark.parametrize("name", DEPTHS)
def test_resnets_expect_what_torchvision_says(name: str) -> None:
    transforms = get_model_weights(name.replace("_", ""))["IMAGENET1K_V1"].transforms()
    expected = tuple(transforms.mean), tuple(transforms.std), transforms.interpolation.value
    assert weights_preprocessing(name) == expected


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", "mobilenetv2_100", "dpn68", "mobilenetv3_rw"]
)
def test_timms_models_expect_what_timm_resolves(name: str) -> None:
    config = resolve_model_data_config(timm.create_model(name))
    assert weights_preprocessing(f"timm:{name}") == (config["mean"], config["std"], config["interpolation"])


def test_every_preprocessing_of_timm_has_a_name() -> None:
    found = {weights_preprocessing(f"timm:{name}") for name in [*timm.list_models(), *timm.list_pretrained()]}
    assert {normalisation_of(each.mean, each.std) for each in found} == set(STATISTICS)
    assert {each.interpolation for each in found} == {"bilinear", "bicubic"}


@pytest.mark.parametrize("name", ["no_such_model", "resnet50.no_such_weights"])
def test_an_unknown_model_of_timm_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"timm has no model {name}"):
        weights_preprocessing(f"timm:{name}")
