"""Training on two data sets and evaluation on both, as a user does it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.samples import SOURCE_STRIDE
from tests.conftest import TINY_PARAMS, Script
from tests.runs import curves_of, records_of, weights_of

FIGURES = ("rank1", "mAP")


@pytest.fixture
def folder(script: Script, make_market: Callable[[Path], Path]) -> Path:
    """Where two data sets and the params of a training on both lie."""
    for name in ("one", "two"):
        make_market(script.folder / name)
    params = {
        **TINY_PARAMS,
        "batches_dir": ["one", "two"],
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "balance": "source"},
        "model_params": {**TINY_PARAMS["model_params"], "mixstyle": 0.5, "spectral_trans": 0},
        "epoch": 1,
    }
    (script.folder / "params.json").write_text(json.dumps(params))
    return script.folder


def test_two_data_sets_are_learnt_and_each_is_evaluated(script: Script, folder: Path) -> None:
    shown = script.succeed("train.py", "--sub_working_dir", "run").stderr
    assert "22 identities" in shown
    for name in ("one", "two", "mean"):
        assert re.search(rf"^{name} +[\d.]+%", shown, re.MULTILINE)
    (record,) = records_of(folder / "runs" / "run")
    metrics, measures = record["metrics"], record["measures"]
    for figure in FIGURES:
        assert metrics[figure] == pytest.approx((metrics[f"one/{figure}"] + metrics[f"two/{figure}"]) / 2)
    assert measures["share/one"] == measures["share/two"] == 0.5
    assert {"evaluation/one/mAP", "epoch/cross_entropy/two"} <= curves_of(folder / "runs" / "run").keys()
    saved = torch.load(folder / "runs" / "run" / "model_best.pth", weights_only=True)
    assert saved["labels"][11] == SOURCE_STRIDE + 3
    assert saved["params"]["batches_dir"] == ["one", "two"]

    result = folder / "result.json"
    offline = script.succeed("evaluator.py", "runs/run", "--set", f"result_log_file={result}").stdout
    assert all(re.search(rf"^{name} +[\d.]+%", offline, re.MULTILINE) for name in ("one", "two"))
    found = {entry["data_set"]: entry["metrics"] for entry in json.loads(result.read_text())["data_sets"]}
    for name in ("one", "two"):
        assert {figure: found[name][figure] for figure in FIGURES} == {
            figure: pytest.approx(metrics[f"{name}/{figure}"], abs=1e-6) for figure in FIGURES
        }


@pytest.mark.slow
def test_a_run_of_two_data_sets_that_was_stopped_ends_with_the_same_weights(script: Script, folder: Path) -> None:
    settings = ["--set", "epoch=2", "log_every=1", "checkpoint.every_steps=1"]
    script.succeed("train.py", "--sub_working_dir", "whole", *settings)
    started = script.start("train.py", "--sub_working_dir", "stopped", *settings)
    started.wait_until(lambda: (folder / "runs" / "stopped" / "metrics.jsonl").exists())
    started.stop(2)
    script.succeed("train.py", "--operation", "resume_train", "--sub_working_dir", "stopped")
    whole, stopped = (weights_of(folder / "runs" / name) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())
