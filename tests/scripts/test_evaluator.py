"""Offline evaluation as a process: models, saved features, several data sets, and everything it can write."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import evaluator
from config.load import load_params
from data.features import read_features
from evaluate.core.plugins import plugin_options
from models.network import build_network
from tests.conftest import Script
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.cli import SUCCESS, USER_MISTAKE, exit_code_of

Result = Callable[..., dict[str, Any]]
Mistake = Callable[..., str]
PROTOCOL = "evaluation_params.type=market_evaluate"


@pytest.fixture
def model(script: Script, make_market: Callable[[Path], Path]) -> Path:
    """A network that nobody trained, saved beside the tiny data set."""
    make_market(script.folder / "market")
    params, _ = load_params(script.write_params(), plugin_options=plugin_options)
    torch.manual_seed(0)
    weights = build_network(params.model_params, 11).state_dict()
    path = script.folder / "model.pth"
    save_checkpoint(path, Checkpoint(weights, params.model_dump(mode="json"), list(range(3, 14)), {}))
    return path


@pytest.fixture
def features(script: Script) -> Path:
    """Features as another program might save them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 8))
    content: dict[str, Any] = {}
    for split, number in (("query", 30), ("gallery", 200)):
        pids = rng.integers(0, 20, number)
        content[f"{split}_features"] = (centres[pids] + 0.5 * rng.normal(size=(number, 8))).astype(np.float32)
        content[f"{split}_pids"] = pids + 1
        content[f"{split}_camids"] = rng.integers(1, 4, number)
    path = script.folder / "features.npz"
    np.savez(path, **content)
    return path


@pytest.fixture
def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The evaluator without a process for each call, of which this file would need very many; returns its exit code."""
    monkeypatch.chdir(script.folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(evaluator, "log_to_screen", lambda: None)
    return lambda *arguments: exit_code_of(lambda: evaluator.main(list(arguments)))


@pytest.fixture
def result(script: Script, run: Callable[..., int]) -> Result:
    """What the evaluator writes when all goes well."""

    def read(*arguments: str) -> dict[str, Any]:
        assert run(*arguments, "--set", "result_log_file=out/result.json") == SUCCESS
        return json.loads((script.folder / "out" / "result.json").read_text())

    return read


@pytest.fixture
def mistake(run: Callable[..., int], caplog: pytest.LogCaptureFixture) -> Mistake:
    """What it says against a mistake."""

    def message(*arguments: str) -> str:
        caplog.clear()
        assert run(*arguments) == USER_MISTAKE
        return caplog.messages[-1]

    return message


def test_a_feature_file_is_all_it_needs(script: Script, features: Path, result: Result) -> None:
    process = script.succeed("evaluator.py", "features.npz")
    names, values = process.stdout.splitlines()
    assert names.split() == ["rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP"]
    metrics = result("features.npz")["metrics"]
    assert [f"{value:.4%}" for value in metrics.values()] == values.split()


def test_the_result_says_what_was_measured_how(features: Path, result: Result) -> None:
    found = result("features.npz", "--set", PROTOCOL, "evaluation_params.protocol=camera_less")
    assert found["model"] == found["data_set"] == "features.npz"
    assert found["protocol"] == found["evaluation_params"]["protocol"] == "camera_less"
    assert found["score"] == "mAP"
    assert found["counts"] == {"num_query": 30, "num_query_without_match": 0, "num_gallery": 200}
    assert found["seconds"] > 0


def test_features_written_are_features_read(model: Path, result: Result) -> None:
    of_model = result("model.pth", "--set", "features_path=out/features.npz")
    of_features = result("out/features.npz")
    assert of_features["metrics"] == of_model["metrics"]
    assert of_features["counts"] == of_model["counts"]
    # The branches of the embedding are known to the file.
    per_branch = ["evaluation_params.normalisation=branch", PROTOCOL]
    of_features, of_model = (result(subject, "--set", *per_branch) for subject in ("out/features.npz", "model.pth"))
    assert of_features["metrics"] == of_model["metrics"]


def test_a_trained_network_is_compared_before_or_after_its_neck(
    script: Script, model: Path, result: Result, mistake: Mistake
) -> None:
    checkpoint = load_checkpoint(model)
    for name, value in checkpoint.model.items():
        if name.endswith("bn.running_mean") and name.startswith("branches."):
            torch.nn.init.normal_(value)
    save_checkpoint(model, checkpoint)
    checkpoint.params["model_params"]["retrieval_of"] = "features"
    save_checkpoint(script.folder / "before.pth", checkpoint)
    found: list[Tensor] = []
    for subject, side in (("model.pth", "features"), ("before.pth", "null"), ("model.pth", "null")):
        result(subject, "--set", "features_path=found.npz", f"retrieval_of={side}")
        found.append(read_features(script.folder / "found.npz").gallery.features)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=0.1)
    assert "retrieval_of: found.npz already holds" in mistake("found.npz", "--set", "retrieval_of=features")
    checkpoint.params["model_params"] |= {"retrieval_of": "embeddings", "neck": "none"}
    without = {name: value for name, value in checkpoint.model.items() if not re.match(r"branches\.\w+\.bn\.", name)}
    save_checkpoint(model, checkpoint._replace(model=without))
    assert 'model_params.neck "none"' in mistake("model.pth", "--set", "retrieval_of=features")


def test_several_data_sets_in_one_call(
    script: Script, model: Path, result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(script.folder / "market", script.folder / "other"))
    for image in (other / "bounding_box_test").glob("003[12]*_c11*"):
        image.unlink()
    shutil.rmtree(other / "bounding_box_train")  # measured on, never trained on
    several = ["--set", 'data_dirs=["market", "other"]', "pictures_dir=out/pictures", "report_path=out/report.html"]
    data_sets = result("model.pth", *several)["data_sets"]
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [found["data_set"] for found in data_sets] == ["market", "other"]
    assert [found["counts"]["num_query_without_match"] for found in data_sets] == [1, 3]
    for found in data_sets:
        alone = result("model.pth", "--set", f"batches_dir={found['data_set']}")
        assert alone["metrics"] == found["metrics"]
    assert [line.split()[0] for line in table] == ["market", "other"]
    assert table[1].split()[1] == f"{data_sets[1]['metrics']['rank1']:.2%}"
    for folder in ("1_market", "2_other"):
        with Image.open(script.folder / "out" / "pictures" / folder / "rank_list.png") as picture:
            assert picture.width > 300
    page = (script.folder / "out" / "report.html").read_text()
    assert [name in page for name in ("market", "other")] == [True, True]


@pytest.mark.parametrize("subject", ["features.npz", "model.pth"])
@pytest.mark.usefixtures("features", "model")
def test_a_report_of_features_alone_and_of_a_model(script: Script, run: Callable[..., int], subject: str) -> None:
    assert run(subject, "--set", "report_path=report.html") == SUCCESS
    page = (script.folder / "report.html").read_text()
    HTMLParser().feed(page)
    assert ("data:image/jpeg;base64," in page) == (subject == "model.pth")


def test_re_ranking_is_asked_for_in_the_file(script: Script, features: Path, result: Result) -> None:
    plain = result("features.npz")["metrics"]
    section = {"type": "market_evaluate", "re_ranking": "k_reciprocal", "k_reciprocal": {"k1": 3, "k2": 2}}
    content = {"model_path": "features.npz", "evaluation_params": section}
    (script.folder / "eval_params.json").write_text(json.dumps(content))
    found = result("eval_params.json")
    assert found["evaluation_params"]["k_reciprocal"] == {"k1": 3, "k2": 2, "lambda_value": 0.3}
    assert found["metrics"] != plain


SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"query_features": np.full((30, 8), np.nan)}, "features.npz: query_features: 30 of 30 rows hold"),
    "zero": ({"gallery_features": np.zeros((200, 8), np.float32)}, "gallery: 200 of 200 embeddings have length zero"),
    "size": ({"gallery_features": np.ones((200, 9), np.float32)}, "embeddings of different sizes cannot be compared"),
    "no gallery": (
        {"gallery_features": np.zeros((0, 8)), **dict.fromkeys(("gallery_pids", "gallery_camids"), np.zeros(0, "i8"))},
        "no gallery images to evaluate on",
    ),
    "nobody there": ({"gallery_pids": np.full(200, 99)}, "the gallery shows none of the persons of the 30 query"),
    "one camera": (
        {"query_camids": np.ones(30, "i8"), "gallery_camids": np.ones(200, "i8")},
        "no query image has a true match",
    ),
    "lacks": ({"query_pids": None}, "features.npz: lacks query_pids"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_features_that_cannot_be_evaluated(mistake: Mistake, features: Path, name: str) -> None:
    changes, message = SPOILT[name]
    with np.load(features) as content:
        arrays = {**content, **changes}
    np.savez(features, **{key: array for key, array in arrays.items() if array is not None})
    assert message in mistake("features.npz")


def test_a_mistake_ends_the_process_with_one_message(script: Script, features: Path) -> None:
    features.write_bytes(features.read_bytes()[:1000])
    assert "features.npz: damaged" in script.mistake("evaluator.py", "features.npz")


def test_persons_not_in_the_gallery_are_named(features: Path, result: Result, caplog: pytest.LogCaptureFixture) -> None:
    with np.load(features) as content:
        arrays = dict(content)
    arrays["query_pids"][:2] = [501, 502]
    np.savez(features, **arrays)
    assert result("features.npz")["counts"]["num_query_without_match"] == 2
    assert "2 of 30 query images have no true match in the gallery" in caplog.text
    assert "the gallery lacks pid 501, 502" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["batches_dir=market"], "batches_dir: features.npz already holds the embeddings of a data set"),
        (["evaluation_params.type=lfw_evaluate"], "lfw_evaluate"),
        (["evaluation_params.type=classification_evaluate"], "classification_evaluate"),
        ([PROTOCOL, "evaluation_params.re_rank=true"], "evaluation_params.re_rank: unknown key"),
        ([PROTOCOL, "evaluation_params.k_reciprocal.k3=1"], "evaluation_params.k_reciprocal.k3: unknown key"),
        ([PROTOCOL, "evaluation_params.flip=true"], "evaluation_params.flip: features.npz holds features, and no"),
        (["pictures_dir=pictures"], "pictures_dir: this evaluation made no pictures"),
        (["test_list=test_list_800.txt"], "test_list: features.npz already holds the embeddings"),
        (["report_path=features.npz/report.html"], "features.npz"),
        (["report_images=true"], "report_images: are those of the report"),
        (["result_log_file=."], "result_log_file: . is a folder; name a file"),
    ],
)
@pytest.mark.usefixtures("features")
def test_what_cannot_be_done_with_features(mistake: Mistake, settings: list[str], message: str) -> None:
    assert message in mistake("features.npz", "--set", *settings)


@pytest.mark.parametrize("subject", ["model.pth", "features.npz"])
@pytest.mark.usefixtures("model", "features")
def test_keys_of_a_plugin_are_those_of_the_model_s_where_none_is_named(
    result: Result, mistake: Mistake, subject: str
) -> None:
    options = result(subject, "--set", "evaluation_params.ranks=[1, 2]")["evaluation_params"]
    assert (options["type"], options["ranks"]) == ("market_evaluate", [1, 2])
    assert "evaluation_params.flap: unknown key; did you mean 'flip'?" in mistake(
        subject, "--set", "evaluation_params.flap=true"
    )


def test_without_a_plugin_in_the_model_its_keys_are_unknown(mistake: Mistake, model: Path, script: Script) -> None:
    checkpoint = load_checkpoint(model)
    params = {**checkpoint.params, "evaluation_params": {"type": None}}
    save_checkpoint(script.folder / "plain.pth", checkpoint._replace(params=params))
    assert "name it, too, as evaluation_params.type" in mistake("plain.pth", "--set", "evaluation_params.flip=true")
    assert "missing.pth: no such file" in mistake("missing.pth", "--set", "evaluation_params.flip=true")


def test_images_of_the_report_are_saved_as_files(run: Callable[..., int], script: Script, model: Path) -> None:
    assert run("model.pth", "--set", "report_path=out/page.html", "report_images=true") == SUCCESS
    files = sorted((script.folder / "out" / "page_images").iterdir())
    page = (script.folder / "out" / "page.html").read_text()
    assert len(files) == page.count("<svg") + page.count("data:image/")
    charts = [path for path in files if path.suffix == ".svg"]
    assert charts
    for path in charts:
        assert "var(--" not in ElementTree.parse(path).getroot().attrib.get("style", path.read_text())
    crops = [path for path in files if path.suffix == ".jpg"]
    assert any("rank_1_" in path.name for path in crops)
    for path in crops:
        Image.open(path).load()


@pytest.mark.usefixtures("model")
def test_a_missing_data_set_is_told_before_any_is_measured(
    mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere: no such folder" in mistake("model.pth", "--set", 'data_dirs=["market", "nowhere"]')
    assert "mAP" not in capsys.readouterr().out


def test_a_folder_of_runs_in_place_of_the_params(script: Script, model: Path, result: Result) -> None:
    (script.folder / "runs" / "first").mkdir(parents=True)
    shutil.copy(model, script.folder / "runs" / "first" / "model_best.pth")
    assert result("runs")["model"] == "runs/first/model_best.pth"


def test_files_of_other_programs_are_no_models(mistake: Mistake, script: Script, model: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2)}}, script.folder / "other.pth")
    assert "other.pth: not a checkpoint of this framework" in mistake("other.pth")
    (script.folder / "model.pth").write_bytes((script.folder / "model.pth").read_bytes()[:1000])
    assert "model.pth: damaged" in mistake("model.pth")
    assert "missing.npz: no such file" in mistake("missing.npz")
