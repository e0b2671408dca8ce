from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.params import Params
from evaluate.core.load_model import load_trained_network
from models.network import build_network
from models.options import ModelParams
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError

Change = Callable[[dict[str, Any]], object]
PARAMS = Params(model_params=ModelParams.model_validate({"model": "resnet_18", "feature_dim": 8, "pcb_n_parts": 2}))


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Change], Path]:
    """Writes a checkpoint whose weights were changed in some way."""

    def write(change: Change) -> Path:
        weights = build_network(PARAMS.model_params, 3).state_dict()
        change(weights)
        path = tmp_path / "model.pth"
        save_checkpoint(path, Checkpoint(dict(weights), PARAMS.model_dump(mode="json"), [1, 2, 3], {}))
        return path

    return write


def test_a_network_comes_back_with_its_weights(save: Callable[..., Path]) -> None:
    kept: dict[str, Any] = {}
    trained = load_trained_network(save(kept.update))
    assert trained.labels == [1, 2, 3]
    assert all(torch.equal(value, kept[name]) for name, value in trained.network.state_dict().items())


def test_weights_in_half_precision_are_computed_in_single_precision(save: Callable[..., Path]) -> None:
    path = save(lambda weights: weights.update({name: value.half() for name, value in weights.items()}))
    trained = load_trained_network(path)
    assert {parameter.dtype for parameter in trained.network.parameters()} == {torch.float32}
    assert trained.network.eval()(torch.zeros(1, 3, 32, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights["backbone.conv1.weight"].fill_(float("nan")), r"backbone\.conv1\.weight: hold NaN"),
        (lambda weights: weights.popitem(), "do not fit the params"),
        (lambda weights: weights.update(other=torch.ones(1)), "do not fit the params"),
        (lambda weights: weights.update({"backbone.bn1.bias": torch.ones(3)}), "do not fit the params"),
    ],
)
def test_weights_of_another_network_are_refused(save: Callable[..., Path], change: Change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_trained_network(save(change))
