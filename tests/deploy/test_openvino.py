"""The profile "openvino": the convention of Open Model Zoo's demos, parity, and the evaluator and predictor on it."""

import logging
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch.nn import functional as F

import deploy.export
from config.eval_params import EvalParams
from data.images import decode
from deploy.evaluated import load_exported
from deploy.export import export_onnx
from deploy.predictor import Predictor
from tests.deploy.conftest import Model
from utils.errors import DataError, ParamsError, UserError


@pytest.fixture(scope="session")
def converted(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as OpenVINO's files."""
    out = tmp_path_factory.mktemp("openvino") / "model.xml"
    export_onnx(model.path, model.exporting(profile="openvino"), out)
    return out


def expected_of(model: Model, images: list[Path]) -> np.ndarray:
    pixels = np.stack([decode(path, model.params.eval_resize) for path in images])
    normalised = torch.from_numpy(((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2))
    with torch.no_grad():
        return F.normalize(model.trained.network.eval().double().embed(normalised)).numpy()


def test_it_takes_raw_bgr_pixels_as_the_demos_feed_them(model: Model, converted: Path, images: list[Path]) -> None:
    """Each image alone, in float32: the file itself, without anything of ours."""
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (taken,), (given,) = compiled.inputs, compiled.outputs
    assert (taken.any_name, given.any_name) == ("data", "reid_embedding")
    assert taken.partial_shape.to_string() == "[?,3,64,32]"
    for path, expected in zip(images, expected_of(model, images), strict=True):
        bgr = decode(path, model.params.eval_resize)[:, :, ::-1]
        found = compiled(bgr.transpose(2, 0, 1)[None].astype(np.float32))[0][0]
        assert np.abs(found / np.linalg.norm(found) - expected).max() < 1e-4


def test_the_predictor_gives_the_embeddings_of_the_network(model: Model, converted: Path, images: list[Path]) -> None:
    predictor = Predictor(converted, batch_size=5, threads=1)
    expected = expected_of(model, images)
    assert np.abs(predictor(images) - expected).max() < 1e-4
    assert predictor.card is not None
    assert {"rank1", "mAP"} <= predictor.card.measured.keys()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: predictor([images[place]])[0], list(range(12)) * 3))
    assert np.abs(np.stack(found) - np.concatenate([expected] * 3)).max() < 1e-4


def test_the_evaluator_gets_the_embeddings_of_the_network(model: Model, converted: Path) -> None:
    subject = load_exported(converted, EvalParams(model_path=str(converted)))
    (context,) = subject.evaluations.values()
    images = torch.randint(0, 256, (3, 3, 64, 32)) / 255 * 2 - 1
    with torch.no_grad():
        expected = model.trained.network.eval().embed(images)
    torch.testing.assert_close(context.online_net(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_fp16_halves_the_weights(model: Model, converted: Path, images: list[Path], tmp_path: Path) -> None:
    params = model.exporting(profile="openvino", precision="fp16", measured_images=0)
    export_onnx(model.path, params, tmp_path / "model.xml")
    sizes = [path.with_suffix(".bin").stat().st_size for path in (tmp_path / "model.xml", converted)]
    assert sizes[0] < 0.55 * sizes[1]
    assert np.abs(Predictor(tmp_path / "model.xml")(images) - expected_of(model, images)).max() < 2e-2


def test_int8_is_smaller_and_reports_its_loss(
    model: Model, converted: Path, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = model.exporting(profile="openvino", precision="int8", calibration_images=8)
    with caplog.at_level(logging.INFO):
        card = export_onnx(model.path, params, tmp_path / "model.xml")
    assert "trained" in caplog.text
    assert "exported, int8" in caplog.text
    assert {"rank1", "mAP"} <= card.measured.keys()
    sizes = [path.with_suffix(".bin").stat().st_size for path in (tmp_path / "model.xml", converted)]
    assert sizes[0] < 0.4 * sizes[1]
    cosines = (Predictor(tmp_path / "model.xml")(images) * expected_of(model, images)).sum(axis=1)
    assert 0.95 < cosines.min() < 1 - 1e-6


def other_weights(path: Path) -> None:
    content = bytearray(path.with_suffix(".bin").read_bytes())
    content[len(content) // 2] ^= 1
    path.with_suffix(".bin").write_bytes(content)


def without_card(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("person_reid", "other"), encoding="utf-8")


def unknown_layer(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"Convolution"', '"Unheard"'), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_weights, r"model\.bin: not the weights of model\.xml"),
        (lambda path: path.with_suffix(".bin").unlink(), r"model\.bin: cannot be read"),
        (lambda path: path.unlink(), r"model\.xml: not an OpenVINO model"),
        (lambda path: path.write_text("no xml"), r"model\.xml: not an OpenVINO model"),
        (without_card, "has no model card"),
        (unknown_layer, "not an OpenVINO model that can be run"),
    ],
)
def test_damaged_files_are_refused(
    converted: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    for path in (converted, converted.with_suffix(".bin")):
        shutil.copy(path, tmp_path)
    damage(tmp_path / "model.xml")
    with pytest.raises(DataError, match=message):
        Predictor(tmp_path / "model.xml")


def test_a_model_with_other_embeddings_is_not_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a batch normalisation has other means."""
    to_onnx = deploy.export.to_onnx

    def other(trained, options):
        changed = model.trained
        changed.network.heads()[0].get_buffer("bn.running_mean").add_(1.0)
        return to_onnx(changed, options)

    monkeypatch.setattr(deploy.export, "to_onnx", other)
    out = tmp_path / "model.xml"
    out.write_bytes(b"an earlier one")
    with pytest.raises(DataError, match="OpenVINO on CPU against torch"):
        export_onnx(model.path, model.exporting(profile="openvino"), out)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"an earlier one"


@pytest.mark.parametrize(("profile", "name"), [("openvino", "model.onnx"), ("ours", "model.xml")])
def test_the_name_of_the_file_fits_the_profile(model: Model, tmp_path: Path, profile: str, name: str) -> None:
    with pytest.raises(ParamsError, match=r"--out: .*\.xml"):
        export_onnx(model.path, model.exporting(profile=profile), tmp_path / name)


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_a_missing_package_is_named(
    model: Model, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "deploy.openvino", raising=False)
    params = model.exporting(profile="openvino", precision="int8", calibration_images=8)
    with pytest.raises(UserError, match=f"pip install {package}"):
        export_onnx(model.path, params, tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []
