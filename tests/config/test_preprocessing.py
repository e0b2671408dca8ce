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


@pytest.mark.parametrize("given", [{}, {"normalisation": "auto"}, {"mirror": False}])
def test_auto_is_what_the_weights_expect(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(given).data_augmentation.normalisation == "imagenet"
    of_the_weights(monkeypatch, Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"))
    params = loaded(given)
    assert params.data_augmentation.normalisation == "half"
    assert params.data_augmentation.mirror == given.get("mirror", True)


def test_what_the_params_say_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_weights(monkeypatch, Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic"))
    assert loaded({"normalisation": "clip"}).data_augmentation.normalisation == "clip"


def test_params_made_in_code_and_those_saved_hold_no_auto() -> None:
    made = Params()
    assert made.data_augmentation.normalisation == "imagenet"
    saved = json.loads(made.model_dump_json())
    assert "auto" not in saved["data_augmentation"].values()
    # Saved params keep what they were resolved to, whatever the weights are said to expect later.
    saved["data_augmentation"]["normalisation"] = "half"
    assert params_from_dict(saved, "params.json", plugin_options).params.data_augmentation.normalisation == "half"


def test_weights_without_a_named_normalisation_ask_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_weights(monkeypatch, Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic"))
    with pytest.raises(ParamsError, match=r"^params.json: data_augmentation.normalisation: .*resnet_18.*0\.1.*"):
        loaded({})
