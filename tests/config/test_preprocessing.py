"""The preprocessing of params: what stands in the place of "auto" wherever they are read."""

import json
from typing import Any

import pytest

from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from models.backbones import registry
from models.backbones.registry import Preprocessing
from utils.errors import ParamsError


def of_the_weights(monkeypatch: pytest.MonkeyPatch, expected: Preprocessing) -> None:
    """Let the weights of resnet_18 expect another preprocessing."""
    entry = registry.BACKBONES["resnet_18"]._replace(preprocessing=expected)
    monkeypatch.setitem(registry.BACKBONES, "resnet_18", entry)


def loaded(augmentation: dict[str, Any]) -> Params:
    raw = {"model_params": {"model": "resnet_18"}, "data_augmentation": augmentation}
    return params_from_dict(raw, "params.json", plugin_options).params


BICUBIC = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
STRANGE = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "lanczos")


@pytest.mark.parametrize("given", [{}, {"normalisation": "auto", "interpolation": "auto"}, {"mirror": False}])
def test_auto_is_what_the_weights_expect(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resnet = loaded(given).data_augmentation
    assert (resnet.normalisation, resnet.interpolation) == ("imagenet", "bilinear")
    of_the_weights(monkeypatch, BICUBIC)
    other = loaded(given).data_augmentation
    assert (other.normalisation, other.interpolation) == ("half", "bicubic")
    assert other.mirror == given.get("mirror", True)


def test_what_the_params_say_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_weights(monkeypatch, BICUBIC)
    one, other = (
        loaded(given).data_augmentation for given in ({"normalisation": "clip"}, {"interpolation": "bilinear"})
    )
    assert (one.normalisation, one.interpolation) == ("clip", "bicubic")
    assert (other.normalisation, other.interpolation) == ("half", "bilinear")
    of_the_weights(monkeypatch, STRANGE)
    assert loaded({"normalisation": "unit", "interpolation": "bicubic"}).data_augmentation.normalisation == "unit"


def test_params_made_in_code_and_those_saved_hold_no_auto() -> None:
    made = Params()
    assert made.eval_resize == (256, 128, "bilinear")
    saved = json.loads(made.model_dump_json())
    assert "auto" not in saved["data_augmentation"].values()
    # Saved params keep what they were resolved to, whatever the weights are said to expect later.
    saved["data_augmentation"]["normalisation"] = "half"
    assert params_from_dict(saved, "params.json", plugin_options).params.data_augmentation.normalisation == "half"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, "normalisation"),
        ({"normalisation": "unit"}, "interpolation"),
        ({"interpolation": "bicubic"}, "normalisation"),
    ],
)
def test_what_weights_expect_and_nobody_knows_is_asked_for(
    given: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_weights(monkeypatch, STRANGE)
    with pytest.raises(ParamsError, match=rf"^params.json: data_augmentation.{key}: .*resnet_18.*lanczos"):
        loaded(given)


def test_the_size_and_the_interpolation_belong_together() -> None:
    augmentation = {"interpolation": "bicubic", "resize_h": 80}
    raw = {"img_h": 64, "img_w": 32, "gan_params": {"img_h": 128}, "data_augmentation": augmentation}
    params = params_from_dict(raw, "params.json", plugin_options).params
    assert params.train_resize == (80, 32, "bicubic")
    assert params.eval_resize == (64, 32, "bicubic")
    assert params.generator_resize == (128, 64, "bicubic")
