"""export_onnx and the evaluation of what it writes, as processes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Script


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_market: Callable[[Path], Path]) -> Script:
    """A folder in which a run was trained and exported."""
    script = Script(tmp_path_factory.mktemp("exported"))
    make_market(script.folder / "market")
    script.write_params(epoch=1, evaluation_params={"type": "market_evaluate", "at_start": False})
    for arguments in (["--sub_working_dir", "first"], ["--operation", "export_onnx", "--sub_working_dir", "first"]):
        process = script.succeed("train.py", *arguments)
    assert "largest difference of embeddings" in process.stderr
    return script


def test_the_evaluator_measures_the_export(trained: Script) -> None:
    """That it finds the same as of the checkpoint is tested where networks are not as raw as this one."""
    trained.succeed("evaluator.py", "runs/first/model.onnx", "--set", "result_log_file=result.json")
    result = json.loads((trained.folder / "result.json").read_text())
    assert result["model"] == "runs/first/model.onnx"
    assert {"rank1", "mAP"} <= result["metrics"].keys()


def test_a_hub_folder_is_written_and_measured(trained: Script) -> None:
    trained.succeed("train.py", "--operation", "export_hub", "--sub_working_dir", "first")
    trained.succeed("evaluator.py", "runs/first/hub", "--set", "result_log_file=hub.json")
    trained.succeed("evaluator.py", "runs/first", "--set", "result_log_file=run.json")
    hub, run = (json.loads((trained.folder / name).read_text())["metrics"] for name in ("hub.json", "run.json"))
    assert hub == run
    licence = ["--set", "export_params.licence=Apache 2"]
    assert "licence" in trained.mistake("train.py", "--operation", "export_hub", "--sub_working_dir", "first", *licence)


def test_a_repository_that_cannot_be_fetched_is_named(trained: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(trained.folder / "cache"))
    assert "hf://owner/name: cannot be fetched" in trained.mistake("evaluator.py", "hf://owner/name")


def test_what_needs_class_scores_says_that_an_export_has_none(trained: Script) -> None:
    settings = ["--set", "evaluation_params.type=classification_evaluate"]
    assert "gives embeddings only" in trained.mistake("evaluator.py", "runs/first/model.onnx", *settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sub_working_dir", "nothing"], "holds no run"),
        (
            ["--sub_working_dir", "first", "--set", "lr.base_lr=1"],
            "--set lr.base_lr=1: a run has the params it began with; only working_dir, export_params, batches_dir",
        ),
        (["--sub_working_dir", "first", "--set", "export_params.precision=fp8"], "export_params.precision"),
        (["--sub_working_dir", "first", "--set", "batches_dir=elsewhere"], "elsewhere"),
        (["--sub_working_dir", "first", "--config_path", "params.json"], "--config_path goes with"),
    ],
)
def test_mistakes_are_told_and_write_nothing(trained: Script, arguments: list[str], message: str) -> None:
    before = sorted(trained.folder.rglob("*.onnx"))
    assert message in trained.mistake("train.py", "--operation", "export_onnx", *arguments)
    assert sorted(trained.folder.rglob("*.onnx")) == before


def test_another_place_is_written_with_its_folder(trained: Script) -> None:
    trained.succeed("train.py", "--operation", "export_onnx", "--sub_working_dir", "first", "--out", "a/b.onnx")
    assert [path.name for path in (trained.folder / "a").iterdir()] == ["b.onnx"]
