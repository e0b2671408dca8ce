"""Every export profile: parity with the network, names, files beside the model, and refusals."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from config.params import ExportParams
from data.augmentation.normalisation import Normalisation
from deploy.export import export_onnx
from deploy.profiles.registry import PROFILES, profile_of
from tests.deploy.conftest import Model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import ParamsError


def trained_with(model: Model, normalisation: Normalisation, folder: Path) -> Model:
    """The same network as if it had been trained with another normalisation."""
    augmentation = model.params.data_augmentation.model_copy(update={"normalisation": normalisation})
    params = model.params.model_copy(update={"data_augmentation": augmentation})
    path = folder / "other.pth"
    trained = model.trained
    save_checkpoint(
        path, Checkpoint(trained.network.state_dict(), params.model_dump(mode="json"), list(trained.labels), {})
    )
    return model._replace(path=path, params=params)


INPUTS = {
    "boxmot": lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "ultralytics": lambda rgb: rgb / 255,
    "deepstream": lambda rgb: 0.01735207 * (rgb - [123.675, 116.28, 103.53]),
    "tao": lambda rgb: 0.01735207 * (rgb - [123.675, 116.28, 103.53]),
}
"""What each consumer feeds for RGB pixels (B, H, W, 3), before it puts the channels first."""
NAMES = {"tao": ("input", "fc_pred")}


@pytest.mark.parametrize("name", INPUTS)
def test_a_consumer_gets_the_embedding_of_the_network(model: Model, tmp_path: Path, name: str) -> None:
    out = tmp_path / "model.onnx"
    card = export_onnx(model.path, model.exporting(profile=name, measured_images=0), out)
    session = onnxruntime.InferenceSession(out)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, given.name) == NAMES.get(name, ("images", "embedding"))
    assert (taken.type, taken.shape[1:]) == ("tensor(float)", [3, 64, 32])
    assert not isinstance(taken.shape[0], int)
    assert (card.profile, card.layout) == (name, "nchw")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3))
    fed = INPUTS[name](pixels).transpose(0, 3, 1, 2).astype(np.float32)
    (found,) = session.run(None, {taken.name: fed})
    with torch.no_grad():
        normalised = torch.from_numpy(((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2))
        expected = F.normalize(model.trained.network.eval().double().embed(normalised)).numpy()
    found = np.asarray(found)
    assert np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected).max() < 1e-4


def test_the_same_normalisation_leaves_nothing_in_the_graph(model: Model, tmp_path: Path) -> None:
    model = trained_with(model, "imagenet", tmp_path)
    export_onnx(model.path, model.exporting(profile="boxmot", measured_images=0), tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").graph.node[0].op_type == "Conv"


def test_every_profile_can_be_asked_for() -> None:
    assert {"ours", *PROFILES} == set(get_args(ExportParams.model_fields["profile"].annotation))


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"profile": "boxmot", "layout": "nhwc"}, ("export_params.profile", "export_params.layout")),
        ({"profile": "tao", "resize": True}, ("export_params.profile", "export_params.resize")),
        ({"profile": "deepstream", "precision": "int8"}, ("export_params.profile", "export_params.precision")),
    ],
)
def test_options_that_contradict_a_profile_are_refused(options: dict[str, object], keys: tuple[str, str]) -> None:
    with pytest.raises(ParamsError) as refused:
        profile_of(ExportParams.model_validate(options))
    assert all(key in str(refused.value) for key in keys)
