"""A folder for the Hugging Face hub: what is written, and that it is the same network when it is read again."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor, nn

from config.params import Params
from deploy.hub import export_hub, readme
from deploy.predictor import Predictor
from evaluate.core.load_model import find_network, load_trained_network
from evaluate.core.retrieval.retrieve import RetrievalOptions
from models.network import build_network
from tests import foreign
from tests.deploy.conftest import Model
from tests.foreign.torchreid import TorchreidOSNet
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DataError, UserError

OSNET = {"model": "osnet_x0_25", "feature_dim": 512, "neck": "bn", "embedding_relu": True}
POOLED = {"feature_dim": 0, "neck": "none", "last_conv_stride": 2}


@pytest.fixture(scope="session")
def hub(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a hub folder, with a few epochs beside its checkpoint."""
    epochs = [
        {"epoch": n, "seconds": 1.5, "examples_per_second": 90.0, "losses": {"a": 1.0, "b": 1 / n}}
        for n in range(1, 28)
    ]
    epochs[-1]["metrics"] = {"mAP": 0.5}
    model.path.with_name("metrics.jsonl").write_text("\n".join(json.dumps(line) for line in epochs))
    out = tmp_path_factory.mktemp("hub") / "folder"
    export_hub(model.path, model.exporting(licence="apache-2.0", profile="boxmot", precision="fp16"), out)
    return out


def test_a_round_trip_gives_the_same_bits(model: Model, hub: Path, images: list[Path]) -> None:
    before, after = Predictor(model.path), Predictor(hub)
    assert np.array_equal(before(images), after(images))
    assert (after.resize, after.branch_dims) == (before.resize, before.branch_dims)
    trained = load_trained_network(hub / "model.safetensors")
    for name, tensor in model.trained.network.state_dict().items():
        assert torch.equal(trained.network.state_dict()[name], tensor)
    assert list(trained.labels) == [3, 4, 5]
    assert trained.metrics == {"mAP": 0.5}


def test_the_card_has_metrics_and_thresholds_but_no_paths_of_this_machine(model: Model, hub: Path) -> None:
    card = Predictor(hub, warm_up=False).card
    assert card is not None
    assert {"rank1", "mAP"} <= card.measured.keys()
    assert card.thresholds
    assert (card.profile, card.precision) == ("ours", "fp32")
    content = json.loads((hub / "config.json").read_text())
    assert Path(model.params.sources[0]).is_absolute()
    assert content["params"]["batches_dir"] == "market"
    assert str(model.path.parent) not in (hub / "config.json").read_text() + (hub / "README.md").read_text()


def test_the_readme_is_a_card_of_the_hub(hub: Path) -> None:
    text = (hub / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    data = yaml.safe_load(header)
    assert (data["license"], data["pipeline_tag"]) == ("apache-2.0", "image-feature-extraction")
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert {"rank1", "mAP"} <= {metric["type"] for metric in metrics}
    assert huggingface_hub.ModelCard(text).data.to_dict()["license"] == "apache-2.0"
    for word in ("own camera are left out", "market", "64 x 32", "false accept rate", "| 27 | 1.5 | 90.0 |"):
        assert word in body
    epochs = [line for line in body.splitlines() if "| 1.5 | 90.0 |" in line]
    assert len(epochs) <= 10
    assert "weights.safetensors" not in body


def test_a_measurement_needs_no_data_set_if_it_is_switched_off(model: Model, tmp_path: Path) -> None:
    params = model.exporting(measured_images=0).model_copy(update={"batches_dir": "nowhere"})
    card = export_hub(model.path, params, tmp_path / "hub")
    assert (card.measured, card.thresholds) == ({}, ())
    assert "Not measured" in (tmp_path / "hub" / "README.md").read_text()


def test_a_model_is_published_without_metrics_if_the_data_has_no_test_images(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(Path(model.params.sources[0]) / "bounding_box_train", tmp_path / "data" / "bounding_box_train")
    params = model.params.model_copy(update={"batches_dir": str(tmp_path / "data")})
    assert export_hub(model.path, params, tmp_path / "hub").measured == {}
    assert "not measured, and without thresholds" in caplog.text
    assert "Not measured" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("protocol", ["camera_less", "random_gallery"])
def test_the_readme_says_what_the_evaluation_did_with_cameras(model: Model, tmp_path: Path, protocol: str) -> None:
    params = model.params.model_copy(update={"evaluation_params": RetrievalOptions(protocol=protocol)})  # pyright: ignore[reportArgumentType]
    assert export_hub(model.path, params, tmp_path / "hub").measured
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "own camera" not in text
    assert "whatever its camera" in text


def test_the_readme_names_the_data_sets_of_training_and_of_the_test(model: Model, hub: Path) -> None:
    card = Predictor(hub, warm_up=False).card
    assert card is not None
    changes = {"batches_dir": ("sets/one", "sets/two"), "test_dirs": ("sets/other",)}
    text = readme(card, model.params.model_copy(update=changes), [], True, False)
    assert "identities of one, two" in text
    assert "test images of other" in text


@pytest.fixture
def copied(hub: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hub, tmp_path / "copied"))


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def other_weights(folder: Path) -> None:
    """Weights with one other bit: a damage that safetensors does not notice."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_weights, r"model\.safetensors: not the file that was exported .*SHA-256"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not written by export_hub"),
        (lambda folder: change_config(folder, lambda content: content.pop("sha256")), "not written by export_hub"),
        (lambda folder: change_config(folder, lambda content: content.pop("labels")), "labels"),
        (lambda folder: change_config(folder, lambda content: content.update(format=2)), "format 2"),
        (
            lambda folder: change_config(folder, lambda content: content.pop("thresholds")),
            r"card is damaged.*thresholds",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "folder of export_hub"),
    ],
)
def test_a_damaged_folder_is_refused(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(DataError, match=message):
        Predictor(copied)


def test_a_teacher_may_be_a_hub_folder(hub: Path) -> None:
    assert find_network(str(hub), "distillation.teacher", "") == hub / "model.safetensors"


@pytest.fixture
def cache(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's own cache, without a network, in which owner/name lies in two revisions."""
    folder = tmp_path / "cache" / "models--owner--name"
    for revision, files in (("1" * 40, ["config.json", "model.safetensors"]), ("2" * 40, ["config.json"])):
        (folder / "snapshots" / revision).mkdir(parents=True)
        for name in files:
            shutil.copy(hub / name, folder / "snapshots" / revision)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1" * 40)
    (folder / "refs" / "v2").write_text("2" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_repository_is_read_from_the_cache(hub: Path, cache: Path, images: list[Path]) -> None:
    expected = Predictor(hub)(images)
    assert np.array_equal(Predictor("hf://owner/name")(images), expected)
    assert np.array_equal(Predictor(f"hf://owner/name@{'1' * 40}")(images), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://owner/other", "hf://owner/other: cannot be fetched"),
        ("hf://owner/name@v3", "hf://owner/name@v3: cannot be fetched"),
        ("hf://owner/name@v2", r"has no model\.safetensors"),
        ("hf://a/b/c", "hf://a/b/c: cannot be fetched"),
        ("hf://", "hf://: cannot be fetched"),
    ],
)
def test_what_is_not_there_is_named(cache: Path, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictor(source)


def test_only_the_model_of_a_revision_is_downloaded(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, **options: object) -> str:
        asked.append((repository, options))
        return os.fspath(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    Predictor("hf://owner/name@v1", warm_up=False)
    assert asked == [("owner/name", {"revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]})]


@pytest.mark.parametrize("package", ["huggingface_hub", "safetensors"])
def test_a_missing_package_is_named(
    model: Model, hub: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, f"{package}.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"pip install .*{package}"):
        export_hub(model.path, model.params, tmp_path / "new")
    with pytest.raises(UserError, match=f"pip install {package}"):
        Predictor("hf://owner/name" if package == "huggingface_hub" else hub)
    assert list(tmp_path.iterdir()) == []


def saved(folder: Path, size: tuple[int, int], **model_params: object) -> tuple[Path, Params]:
    """A checkpoint with weights and statistics unlike the initial ones."""
    params = Params.model_validate({"img_h": size[0], "img_w": size[1], "model_params": model_params})
    torch.manual_seed(0)
    network = build_network(params.model_params, 3, size)
    foreign.randomised(network, size)
    path = folder / "model_best.pth"
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), [1, 2, 3], {}))
    options = params.export_params.model_copy(update={"measured_images": 0})
    return path, params.model_copy(update={"export_params": options})


def timm_network(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=0)


@pytest.mark.parametrize(
    ("model_params", "architecture", "theirs"),
    [
        (OSNET, "osnet_x0_25", lambda: TorchreidOSNet("bn", 0.25)),
        ({**POOLED, "model": "resnet_18"}, "timm:resnet18", timm_network("resnet18")),
        ({**POOLED, "model": "timm:resnet18"}, "timm:resnet18", timm_network("resnet18")),
        (
            {**POOLED, "model": "timm:test_efficientnet", "neck": "bnneck", "retrieval_of": "features"},
            "timm:test_efficientnet",
            timm_network("test_efficientnet"),
        ),
    ],
)
def test_roboflow_gets_its_architecture_if_the_embeddings_are_equal(
    tmp_path: Path, model_params: dict[str, object], architecture: str, theirs: Callable[[], nn.Module]
) -> None:
    """Its OSNet is torchreid's, its "timm:NAME" is timm.create_model(NAME, num_classes=0)."""
    path, params = saved(tmp_path, (64, 32), **model_params)
    export_hub(path, params, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "reid_config.json").read_text())
    assert config["architecture"] == architecture
    assert config["preprocessing"]["input_size"] == [64, 32]
    assert config["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    network = theirs()
    missing, unexpected = network.load_state_dict(load_file(tmp_path / "hub" / "weights.safetensors"), strict=False)
    assert unexpected == []
    assert [name for name in missing if not name.startswith("classifier.")] == []
    images = torch.randn(4, 3, 64, 32)
    assert_same_direction(network, load_trained_network(path).network.eval().embed, images)
    assert "weights.safetensors" in (tmp_path / "hub" / "README.md").read_text()


@torch.inference_mode()
def assert_same_direction(theirs: nn.Module, ours: Callable[[Tensor], Tensor], images: Tensor) -> None:
    expected, found = (nn.functional.normalize(each(images)) for each in (theirs.eval(), ours))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model_params",
    [
        {**OSNET, "embedding_relu": False},
        {**OSNET, "feature_dim": 256},
        {**OSNET, "model": "osnet_ain_x0_25"},
        {**OSNET, "part_pooling": "max"},
        {**OSNET, "retrieval_of": "features"},
        {**OSNET, "feature_mask": "all"},
        {**POOLED, "model": "resnet_18", "last_conv_stride": 1},
        {**POOLED, "model": "resnet_18", "feature_dim": 8},
        {**POOLED, "model": "resnet_18", "neck": "bn"},
        {**POOLED, "model": "resnet_18", "ibn": True},
        {**POOLED, "model": "resnet_18", "pcb_n_parts": 2, "feature_dim": 8},
        {**POOLED, "model": "timm:convnext_atto"},
        {**POOLED, "model": "timm:test_vit", "last_conv_stride": 1},
    ],
)
def test_roboflow_gets_no_file_if_its_embeddings_would_differ(
    tmp_path: Path, model_params: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    path, params = saved(tmp_path, (64, 32), **model_params)
    out = tmp_path / "hub"
    out.mkdir()
    (out / "reid_config.json").write_text("of an earlier model")
    with caplog.at_level("INFO"):
        export_hub(path, params, out)
    assert "without reid_config.json" in caplog.text
    assert {file.name for file in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
