import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import deploy.export
from config.params import ExportParams
from data.decoding import RESAMPLING, Interpolation, Resize
from deploy.card import ModelCard
from deploy.export import export_onnx, to_onnx
from deploy.networks import OnnxNetwork
from evaluate.core.load_model import Trained
from models.backbones.osnet import PLACES
from models.backbones.resnet import DEPTHS, NonLocal
from models.network import build_network
from models.options import ModelParams
from tests.deploy.conftest import Model
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.errors import DataError


def reference(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the definition, in double precision, an image at a time: embeddings of unit length, and their lengths."""
    network = model.trained.network.eval().double()
    rows = []
    for image in pixels:
        channels = [(image[:, :, channel] / 255 - 0.5) / 0.5 for channel in range(3)]
        with torch.no_grad():
            rows.append(network.embed(torch.from_numpy(np.stack(channels))[None])[0].numpy())
    lengths = np.array([[np.sqrt((row**2).sum())] for row in rows])
    return np.stack(rows) / lengths, lengths


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Nine images of noise, of all brightnesses and contrasts."""
    rng = np.random.default_rng(1)
    noise = rng.normal(rng.uniform(0, 255, (9, 1, 1, 3)), rng.uniform(0, 60, (9, 1, 1, 1)), (9, 64, 32, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("number", [1, 2, 9])
def test_raw_pixels_become_the_embeddings_of_the_trained_network(
    model: Model, exported: Path, pixels: np.ndarray, number: int
) -> None:
    session = onnxruntime.InferenceSession(exported)
    embeddings, lengths = session.run(["embedding", "length"], {"images": pixels[:number]})
    expected, expected_lengths = reference(model, pixels[:number])
    assert np.abs(np.asarray(embeddings) - expected).max() < 1e-5
    assert lengths == pytest.approx(expected_lengths, rel=1e-4)


def test_the_file_is_valid_and_has_a_card(model: Model, exported: Path) -> None:
    proto = onnx.load(exported)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 20
    card = ModelCard.from_metadata({entry.key: entry.value for entry in proto.metadata_props}, "")
    assert card is not None
    assert (card.img_h, card.img_w, card.embedding_dim, card.branch_dims) == (64, 32, 24, (8, 8, 8))
    assert (card.mean, card.std, card.colour_order, card.layout) == ((0.5,) * 3, (0.5,) * 3, "RGB", "nhwc")
    assert card.metrics == {"mAP": 0.5}
    assert card.num_labels == 3
    assert card.params == model.params.model_dump(mode="json")
    assert card.num_measured == len(model.dataset.query) + len(model.dataset.gallery)
    assert {"rank1", "mAP"} <= card.measured.keys()
    assert [threshold.far for threshold in card.thresholds] == sorted(
        (threshold.far for threshold in card.thresholds), reverse=True
    )


def test_the_file_has_no_traces_of_the_exporting_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert b"site-packages" not in content
    assert b"stack_trace" not in content


OPTIONS = [
    {"layout": "nchw"},
    {"precision": "fp16"},
    pytest.param({"simplify": True, "opset": 18}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_every_option_gives_the_same_embeddings(
    model: Model, pixels: np.ndarray, tmp_path: Path, options: dict[str, object]
) -> None:
    out = tmp_path / "model.onnx"
    card = export_onnx(model.path, model.exporting(measured_images=0, **options), out)
    found = OnnxNetwork(out).embed(pixels)
    expected, lengths = reference(model, pixels)
    limit = 2e-2 if options.get("precision") == "fp16" else 1e-4
    assert np.abs(found.embeddings - expected).max() < limit
    assert found.lengths == pytest.approx(lengths, rel=100 * limit)
    assert card.thresholds == ()
    assert onnx.load(out).opset_import[0].version == card.opset == options.get("opset", 20)


def test_a_network_whose_retrieval_compares_features_is_exported_with_them(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    checkpoint, path = load_checkpoint(model.path), tmp_path / "features.pth"
    checkpoint.params["model_params"]["retrieval_of"] = "features"
    save_checkpoint(path, checkpoint)
    export_onnx(path, model.exporting(measured_images=0), tmp_path / "model.onnx")
    found = OnnxNetwork(tmp_path / "model.onnx").embed(pixels)
    expected, lengths = reference(model._replace(path=path), pixels)
    assert np.abs(found.embeddings - expected).max() < 1e-4
    assert found.lengths == pytest.approx(lengths, rel=1e-2)
    assert np.abs(expected - reference(model, pixels)[0]).max() > 0.1


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "other",
    [
        {"ibn": True, "non_local": True},
        pytest.param({"ibn": True, "non_local": True, "resnet_variant": "fastreid"}, marks=pytest.mark.slow),
        {"model": "osnet_ain_x0_25", "last_conv_stride": 1},
    ],
)
def test_networks_with_instance_normalisation_give_the_same_embeddings(
    model: Model,
    pixels: np.ndarray,
    tmp_path: Path,
    other: dict[str, Any],
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DEPTHS, "resnet_18", ("BasicBlock", (1, 1, 1, 1)))
    monkeypatch.setitem(PLACES, "ain", (("residual",), ("none",), ("residual",)))
    options = {**model.params.model_params.model_dump(), **other}
    params = model.params.model_copy(update={"model_params": ModelParams.model_validate(options)})
    torch.manual_seed(0)
    network = build_network(params.model_params, 3)
    for block in network.modules():
        if isinstance(block, NonLocal):
            torch.nn.init.ones_(block.bn.weight)
    network(torch.randn(16, 3, 64, 32))
    changed = Model(tmp_path / "changed.pth", params, model.dataset)
    save_checkpoint(changed.path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], {}))
    out = tmp_path / "model.onnx"
    export_onnx(changed.path, changed.exporting(measured_images=0, precision=precision), out)
    expected, _ = reference(changed, pixels)
    assert np.abs(OnnxNetwork(out).embed(pixels).embeddings - expected).max() < {"fp32": 1e-4, "fp16": 2e-2}[precision]


@pytest.mark.parametrize(("head", "sizes"), [("mgn", (16,) * 8), ("lightmbn", (16,) * 7), ("clip", (64, 16))])
def test_heads_of_several_branches_give_the_same_embeddings(
    model: Model,
    pixels: np.ndarray,
    tmp_path: Path,
    head: str,
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DEPTHS, "resnet_18", ("BasicBlock", (1, 1, 1, 2)))
    plain = {"pcb_n_parts": 0, "feature_global_dim": 0, "part_pooling": "gem"}
    options = {**model.params.model_params.model_dump(), **plain, "head": head}
    if head == "clip":
        options |= {"model": "timm:test_vit", "last_conv_stride": 1, "part_pooling": "avg"}
    changes = {"model_params": ModelParams.model_validate(options), "img_h": 96}
    params = model.params.model_copy(update=changes)
    torch.manual_seed(0)
    network = build_network(params.model_params, 3, (96, 32))
    network(torch.randn(16, 3, 96, 32))
    changed = Model(tmp_path / "changed.pth", params, model.dataset)
    save_checkpoint(changed.path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], {}))
    tall = np.concatenate([pixels, pixels[:, :32]], axis=1)
    card = export_onnx(changed.path, changed.exporting(measured_images=0), tmp_path / "model.onnx")
    assert card.branch_dims == sizes
    found = OnnxNetwork(tmp_path / "model.onnx").embed(tall).embeddings
    assert np.abs(found - reference(changed, tall)[0]).max() < 1e-4


ONE = {"pcb_n_parts": 0, "feature_global_dim": 0, "part_pooling": "avg", "feature_dim": 0}
TRANSREID = {
    **ONE,
    "model": "timm:test_vit",
    "patch_stride": 12,
    "head": "jpm",
    "retrieval_of": "features",
    "camera_embedding": 3.0,
}


SOLIDER = {"model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2, "semantic_weight": 0.2}


@pytest.mark.parametrize(
    "own",
    [
        {"model": "timm:test_efficientnet", "last_conv_stride": 2},
        {"model": "timm:test_vit"},
        {"model": "timm:convnext_atto", "last_conv_stride": 2},
        TRANSREID,
        pytest.param({"model": "timm:tf_efficientnet_lite0", "last_conv_stride": 2}, marks=pytest.mark.slow),
        pytest.param({"model": "timm:test_vit2"}, marks=pytest.mark.slow),
        pytest.param({"model": "timm:eva02_tiny_patch14_224"}, marks=pytest.mark.slow),
        pytest.param({"model": "timm:swin_tiny_patch4_window7_224", "last_conv_stride": 2}, marks=pytest.mark.slow),
        pytest.param(SOLIDER, marks=pytest.mark.slow),
    ],
)
def test_a_network_of_timm_gives_the_same_embeddings(
    model: Model, pixels: np.ndarray, tmp_path: Path, own: dict[str, object]
) -> None:
    options = {**model.params.model_params.model_dump(), "last_conv_stride": 1, **own}
    params = model.params.model_copy(update={"model_params": ModelParams.model_validate(options)})
    torch.manual_seed(0)
    network = build_network(params.model_params, 3, (64, 32), camids=(2, 5))
    network(torch.randn(16, 3, 64, 32))
    changed = Model(tmp_path / "changed.pth", params, model.dataset)
    save_checkpoint(changed.path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [3, 4, 5], {}))
    out = tmp_path / "model.onnx"
    export_onnx(changed.path, changed.exporting(measured_images=0), out)
    expected, _ = reference(changed, pixels)
    assert np.abs(OnnxNetwork(out).embed(pixels).embeddings - expected).max() < 1e-4


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_model_resizes_as_pillow_did_in_training(
    model: Model, pixels: np.ndarray, tmp_path: Path, interpolation: Interpolation
) -> None:
    out = tmp_path / "model.onnx"
    trained = model.resized_by(interpolation)
    card = export_onnx(trained.path, trained.exporting(measured_images=0, resize=True), out)
    assert card.interpolation == interpolation
    network = OnnxNetwork(out)
    for size in ((160, 240), (20, 30)):
        image = Image.fromarray(pixels[0]).resize(size, Image.Resampling.BICUBIC)
        inside = network.embed(np.asarray(image)[None]).embeddings
        for way in RESAMPLING:
            by_pillow = network.embed(np.asarray(Resize(64, 32, way)(image))[None]).embeddings
            # Only rounding after each of the two directions separates Pillow from the model.
            assert (np.abs(inside - by_pillow).max() < 1e-2) == (way == interpolation)


def test_int8_is_smaller_and_reports_its_loss(
    model: Model, exported: Path, pixels: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "model.onnx"
    with caplog.at_level(logging.INFO):
        card = export_onnx(model.path, model.exporting(precision="int8", calibration_images=8), out)
    assert out.stat().st_size < 0.4 * exported.stat().st_size
    assert "trained" in caplog.text
    assert "exported, int8" in caplog.text
    assert {"rank1", "mAP"} <= card.measured.keys()
    expected, _ = reference(model, pixels)
    cosines = (OnnxNetwork(out).embed(pixels).embeddings * expected).sum(axis=1)
    assert cosines.min() > 0.95


def test_a_model_with_other_embeddings_is_not_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the colours are normalised a little differently, as when normalisation lives in two places."""

    def other(trained: Trained, options: ExportParams) -> onnx.ModelProto:
        augmentation = trained.params.data_augmentation.model_copy(update={"normalisation": "imagenet"})
        return to_onnx(
            trained._replace(params=trained.params.model_copy(update={"data_augmentation": augmentation})), options
        )

    monkeypatch.setattr(deploy.export, "to_onnx", other)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier one")
    with pytest.raises(DataError, match=r"differs from the trained network .* at most 0\.0001 is allowed in fp32"):
        export_onnx(model.path, model.params, out)
    assert out.read_bytes() == b"an earlier one"
    assert list(tmp_path.iterdir()) == [out]


def test_int8_needs_training_images(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.export, "read_measured", lambda params: model.dataset._replace(train=[]))
    with pytest.raises(DataError, match=r"export_params\.precision: .*training images"):
        export_onnx(model.path, model.exporting(precision="int8"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
