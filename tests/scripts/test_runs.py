"""What holds for every training, that of a re-ID network and that of a generator: starting, stopping and going on."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.load import load_params, operation_of
from evaluate.core.plugins import plugin_options
from tests.conftest import Script
from tests.runs import DOCUMENTED, curves_of, files_of, num_epochs, records_of, same_weights, weights_of
from tests.scripts.conftest import FinishedRun

RESUME = ("--operation", "resume_train", "--sub_working_dir")
PIDS = [*range(3, 13), 20]
"""Of the training set that make_market draws."""


@pytest.fixture(params=["finished_training", "finished_generator"])
def finished(request: pytest.FixtureRequest) -> FinishedRun:
    return request.getfixturevalue(request.param)


def start(run: FinishedRun, name: str) -> tuple[str, ...]:
    return "--operation", run.operation, "--sub_working_dir", name


def test_a_finished_run_leaves_the_documented_files(finished: FinishedRun) -> None:
    assert files_of(finished.path) == DOCUMENTED - {"model_best.pth"} | {finished.result}
    assert [record["epoch"] for record in finished.records] == [1, 2]
    assert f"finished: runs/first/{finished.result}" in finished.messages
    assert f"finished: runs/first/{finished.result}" in (finished.path / "train_log").read_text()


def test_the_params_name_the_operation_and_load_again(finished: FinishedRun) -> None:
    path = finished.path / "params.json"
    raw = json.loads(path.read_text())
    assert next(iter(raw.items())) == ("$operation", finished.operation)
    assert raw["momentum"] == 0.9  # defaults are written out
    assert operation_of(path) == finished.operation
    params, notes = load_params(path, plugin_options=plugin_options)
    assert notes == ()
    checkpoint = torch.load(finished.path / finished.result, weights_only=True)
    assert (checkpoint["format"], checkpoint["labels"]) == (1, PIDS)
    assert params.model_dump(mode="json") == checkpoint["params"]
    assert {name: value for name, value in raw.items() if name != "$operation"} == checkpoint["params"]


@pytest.mark.parametrize("operation", ["train_gan", "start_train"])
def test_a_run_is_not_started_twice(finished: FinishedRun, operation: str) -> None:
    before = (finished.path / finished.result).read_bytes()
    message = finished.script.mistake("train.py", "--operation", operation, "--sub_working_dir", "first")
    assert "already holds a run" in message
    assert "resume_train --sub_working_dir first" in message
    assert (finished.path / finished.result).read_bytes() == before


def test_a_finished_run_has_nothing_to_resume(finished: FinishedRun) -> None:
    assert "is finished" in finished.script.mistake("train.py", *RESUME, "first")


def test_a_run_killed_before_its_first_step_begins_anew(finished: FinishedRun) -> None:
    run = finished.path.with_name("killed")
    run.mkdir()
    params = json.loads((finished.path / "params.json").read_text())
    (run / "params.json").write_text(json.dumps({**params, "batches_dir": "not mounted"}))
    assert "not mounted: no such folder" in finished.script.mistake("train.py", *RESUME, "killed")
    (run / "params.json").write_text(json.dumps(params))
    finished.script.succeed("train.py", *RESUME, "killed")
    assert same_weights(weights_of(finished.path, finished.result), weights_of(run, finished.result))
    assert records_of(run) == records_of(finished.path)


@pytest.mark.parametrize(
    "finished", ["finished_training", pytest.param("finished_generator", marks=pytest.mark.slow)], indirect=True
)
def test_an_interrupted_run_goes_on_to_the_same_result(finished: FinishedRun) -> None:
    script, stopped, whole = finished.script, finished.path.with_name("stopped"), finished.path.with_name("whole")
    longer = ("--set", "gan_params.epoch=40" if finished.operation == "train_gan" else "epoch=5")
    with script.start("train.py", *start(finished, "stopped"), *longer) as training:
        # Only after some epochs is there anything to forget: momentum, the best score.
        training.wait_until(lambda: num_epochs(stopped) >= 2, "two epochs")
        process = training.stop(signal.SIGINT)
    assert process.returncode == 130, process.stderr
    assert "python train.py --operation resume_train --sub_working_dir stopped" in process.stderr
    resumed = script.succeed("train.py", *RESUME, "stopped")
    assert re.search(r"resumed after step \d+, in epoch \d+ of (5|40)", resumed.stderr)
    assert not (stopped / "last.pth").exists()
    process = script.succeed("train.py", *start(finished, "whole"), *longer)
    assert same_weights(weights_of(whole, finished.result), weights_of(stopped, finished.result))
    assert records_of(whole) == records_of(stopped)
    assert curves_of(whole) == curves_of(stopped)


def test_a_run_of_an_unknown_operation_is_not_resumed(finished: FinishedRun) -> None:
    run = finished.path.with_name("unknown")
    run.mkdir()
    raw = json.loads((finished.path / "params.json").read_text())
    (run / "params.json").write_text(json.dumps({**raw, "$operation": "train_cat"}))
    message = finished.script.mistake("train.py", *RESUME, "unknown")
    assert "unknown/params.json: $operation" in message
    assert "train_cat" in message
    assert [entry.name for entry in run.iterdir()] == ["params.json"]


def test_a_run_does_not_go_on_with_other_data(script: Script, make_market: Callable[[Path], Path]) -> None:
    market = make_market(script.folder / "market")
    script.write_params(epoch=100)
    with script.start("train.py", "--sub_working_dir", "run") as training:
        training.wait_until((script.folder / "runs" / "run" / "last.pth").exists, "a saved state")
        assert training.stop(signal.SIGTERM).returncode == 143
    next((market / "bounding_box_train").glob("0003*")).unlink()
    message = script.mistake("train.py", *RESUME, "run")
    assert re.search("train images: .*than the run began with", message)
