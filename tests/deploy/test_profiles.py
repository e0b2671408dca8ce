"""Every export profile: parity with the network, names, files beside the model, and refusals."""

import configparser
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from config.eval_params import EvalParams
from config.params import ExportParams
from data.augmentation.normalisation import Normalisation
from data.images import decode
from deploy.evaluated import ExportedEmbedder, load_exported
from deploy.export import NOT_MEASURED, export_onnx, file_name, model_card
from deploy.networks import OnnxNetwork
from deploy.predictor import Predictor
from deploy.profiles.profile import bilinear
from deploy.profiles.registry import PROFILES, profile_of
from tests.deploy.conftest import Model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError, ParamsError


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


@pytest.mark.parametrize("name", ["boxmot", "deepstream", "tao"])
def test_the_files_beside_a_model_describe_it(model: Model, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a model")
    card = model_card(model.trained, ExportParams(profile=name), NOT_MEASURED)  # pyright: ignore[reportArgumentType]
    sidecar = PROFILES[name].sidecar(path, card)
    assert sidecar is not None
    place, text = sidecar
    if name == "boxmot":
        found = json.loads(text)
        assert place == "model.onnx.metadata.json"
        assert found["artifact_sha256"] == hashlib.sha256(b"a model").hexdigest()
        assert (found["model_name"], found["model_kwargs"]) == ("resnet50", {"img_size": [64, 32]})
        assert (found["input_name"], found["output_names"]) == ("images", ["embedding"])
    elif name == "deepstream":
        found = dict(re.findall(r"^  (\w+): ([^#\n]*?) *(?:#.*)?$", text, flags=re.MULTILINE))
        assert place == "model.nvtracker.yml"
        assert (found["onnxFile"], found["inferDims"], found["reidFeatureSize"]) == ("model.onnx", "[3, 64, 32]", "24")
        assert (found["offsets"], found["netScaleFactor"]) == ("[123.675, 116.28, 103.53]", "0.01735207")
    else:
        config = configparser.ConfigParser()
        config.read_string(text)
        found = config["property"]
        assert place == "model.sgie.txt"
        assert (found["onnx-file"], found["infer-dims"], found["output-blob-names"]) == (
            path.name,
            "3;64;32",
            "fc_pred",
        )
        assert (found["offsets"], found["net-scale-factor"]) == ("123.675;116.28;103.53", "0.01735207")


@pytest.mark.parametrize("size", [(90, 41), (64, 32), (20, 11)])
def test_bilinear_resizing_is_that_of_torch_without_antialiasing(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, (64, 32), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    assert np.abs(bilinear(image, 64, 32) - expected).max() < 1e-3


def test_a_square_is_resized_in_the_graph_and_measured_as_the_consumer_resizes(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "model.onnx"
    with caplog.at_level(logging.INFO):
        card = export_onnx(model.path, model.exporting(profile="ultralytics", resize=True), out)
    assert onnxruntime.InferenceSession(out).get_inputs()[0].shape[2:] == [64, 64]
    assert "resized as by Ultralytics" in caplog.text
    samples = [*model.dataset.query, *model.dataset.gallery]
    assert card.num_measured == len(samples)
    assert card.thresholds
    squares = np.stack([bilinear(decode(one.path), 64, 64) for one in samples[:4]])
    images = np.stack([bilinear(image, 64, 32) for image in squares])
    with torch.no_grad():
        normalised = torch.from_numpy((images / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
        expected = F.normalize(model.trained.network.eval().embed(normalised)).numpy()
    assert np.abs(OnnxNetwork(out).embed(squares).embeddings - expected).max() < 1e-4
    # As these versions feed it: blue first.
    fed = np.ascontiguousarray((squares / 255)[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)
    found = np.asarray(onnxruntime.InferenceSession(out).run(None, {"images": fed})[0])
    assert np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected).max() < 1e-4
    with pytest.raises(ParamsError, match="squares"):
        load_exported(out, EvalParams())


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.999), ("int8", 0.95)])
def test_predictor_and_evaluator_read_a_profile_in_any_precision(
    model: Model, exported: Path, images: list[Path], tmp_path: Path, precision: str, cosine: float
) -> None:
    out = tmp_path / "model.onnx"
    options = {"precision": precision, "calibration_images": 32, "measured_images": 0}
    export_onnx(model.path, model.exporting(profile="boxmot", **options), out)
    assert (Predictor(out)(images) * Predictor(exported)(images)).sum(axis=1).min() > cosine
    grey = torch.zeros(1, 3, 64, 32)
    with torch.no_grad():
        length = float(ExportedEmbedder(OnnxNetwork(out), "half")(grey).norm())
        assert length == pytest.approx(float(model.trained.network.eval().embed(grey).norm()), rel=0.1)


def test_a_model_that_does_not_fit_its_consumer_is_not_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(PROFILES["boxmot"]), "std", (0.22, 0.22, 0.22))
    with pytest.raises(DataError, match="differs from the trained network"):
        export_onnx(model.path, model.exporting(profile="boxmot", measured_images=0), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model_name", "size", "label"),
    [
        ("resnet_18", (256, 128), "resnet50"),
        ("osnet_ain_x0_25", (256, 128), "osnet_ain_x1_0"),
        ("resnet_50", (384, 128), "lmbn_n"),
    ],
)
def test_boxmot_finds_a_name_that_it_knows_in_the_name_of_the_file(
    model: Model, model_name: str, size: tuple[int, int], label: str
) -> None:
    options = model.params.model_params.model_copy(update={"model": model_name})
    changes = {"model_params": options, "img_h": size[0], "img_w": size[1]}
    params = model.exporting(profile="boxmot").model_copy(update=changes)
    assert file_name(params) == f"{label}_boxmot.onnx"
    assert not PROFILES["boxmot"].warning(*size)
    assert "BoxMOT 23" in PROFILES["boxmot"].warning(128, 64)


def test_every_profile_can_be_asked_for() -> None:
    assert set(PROFILES) == set(get_args(ExportParams.model_fields["profile"].annotation))


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
