"""train.py --operation train_gan and sample_gan, as processes."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from config.load import load_params, operation_of
from evaluate.core.plugins import plugin_options
from tests.conftest import Script
from tests.gan.conftest import GAN, PIDS
from tests.runs import files_of, num_epochs, records_of, same_weights, weights_of

Market = Callable[[Path], Path]
TRAIN = ("--operation", "train_gan", "--sub_working_dir")
RESUME = ("--operation", "resume_train", "--sub_working_dir")
SAMPLE = ("--operation", "sample_gan", "--sub_working_dir")


class FinishedRun:
    """A generator trained once for all the tests that only look at it."""

    def __init__(self, folder: Path, make_market: Market) -> None:
        make_market(folder / "market")
        self.script = Script(folder)
        self.script.write_params(gan_params=GAN)
        self.process = self.script.run("train.py", *TRAIN, "first")
        self.path = folder / "runs" / "first"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_market: Market) -> FinishedRun:
    run = FinishedRun(tmp_path_factory.mktemp("finished"), make_market)
    assert run.process.returncode == 0, run.process.stderr
    return run


def refused(process: subprocess.CompletedProcess[str], message: str) -> None:
    """A mistake of the user's, told in a message."""
    assert process.returncode == 2, process.stderr
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_finished_run_leaves_the_documented_files(finished: FinishedRun) -> None:
    assert files_of(finished.path) == {
        "params.json",
        "train_log",
        "metrics.jsonl",
        "events.out.tfevents.*",
        "generator.pth",
    }
    checkpoint = torch.load(finished.path / "generator.pth", weights_only=True)
    assert (checkpoint["format"], checkpoint["labels"], checkpoint["metrics"]) == (1, PIDS, {})
    assert [record["epoch"] for record in records_of(finished.path)] == [1, 2]


def test_the_params_say_what_they_were_written_by_and_load_again(finished: FinishedRun) -> None:
    raw = json.loads((finished.path / "params.json").read_text())
    assert next(iter(raw.items())) == ("$operation", "train_gan")
    assert raw["gan_params"]["epoch"] == 2
    assert raw["gan_params"]["mix_ratio"] == 0.0  # defaults are written out
    assert operation_of(finished.path / "params.json") == "train_gan"
    params, notes = load_params(finished.path / "params.json", plugin_options=plugin_options)
    assert notes == ()
    checkpoint = torch.load(finished.path / "generator.pth", weights_only=True)
    assert params.model_dump(mode="json") == checkpoint["params"]
    assert {name: value for name, value in raw.items() if name != "$operation"} == checkpoint["params"]


def test_the_screen_tells_what_happens(finished: FinishedRun) -> None:
    output = finished.process.stderr
    for line in (
        r"computing on the CPU: \d+ cores",
        r"train +31 +11 +3 +0 +0",
        r"2 epochs of 4 steps, of 8 images each; pictures of 64x32 of anybody",
        r"epoch 2/2  generator -?\d+\.\d+  discriminator \d+\.\d+  penalty .* \d+ examples/s",
        r"finished: runs/first/generator\.pth",
    ):
        assert re.search(line, output), f"{line}\nnot in\n{output}"
    assert "finished: runs/first/generator.pth" in (finished.path / "train_log").read_text()


@pytest.mark.parametrize("operation", ["train_gan", "start_train"])
def test_a_run_is_not_started_twice(finished: FinishedRun, operation: str) -> None:
    before = (finished.path / "generator.pth").read_bytes()
    process = finished.script.run("train.py", "--operation", operation, "--sub_working_dir", "first")
    refused(process, "already holds a run")
    assert "resume_train --sub_working_dir first" in process.stderr
    assert (finished.path / "generator.pth").read_bytes() == before


def test_a_finished_run_has_nothing_to_resume(finished: FinishedRun) -> None:
    refused(finished.script.run("train.py", *RESUME, "first"), "is finished")


def test_a_run_of_an_unknown_operation_is_not_resumed(finished: FinishedRun) -> None:
    run = finished.path.parent / "unknown"
    run.mkdir()
    raw = json.loads((finished.path / "params.json").read_text())
    (run / "params.json").write_text(json.dumps({**raw, "$operation": "train_cat"}))
    process = finished.script.run("train.py", *RESUME, "unknown")
    refused(process, "unknown/params.json: $operation: ")
    assert "'train_cat'; expected start_train or train_gan" in process.stderr
    assert [entry.name for entry in run.iterdir()] == ["params.json"]


def test_a_run_killed_before_its_first_step_begins_anew(finished: FinishedRun) -> None:
    run = finished.path.parent / "killed"
    run.mkdir()
    (run / "params.json").write_bytes((finished.path / "params.json").read_bytes())
    process = finished.script.run("train.py", *RESUME, "killed")
    assert process.returncode == 0, process.stderr
    assert (run / "generator.pth").read_bytes() == (finished.path / "generator.pth").read_bytes()
    assert records_of(run) == records_of(finished.path)


def test_an_interrupted_run_goes_on_to_the_same_result(finished: FinishedRun) -> None:
    script, name, other = finished.script, "stopped", "whole"
    run = script.folder / "runs" / name
    with script.start(
        "train.py", *TRAIN, name, "--set", f"gan_params={json.dumps({**GAN, 'epoch': 1000})}"
    ) as training:
        training.wait_until(lambda: num_epochs(run) >= 2, "two epochs")
        process = training.stop(signal.SIGINT)
    assert process.returncode == 130, process.stderr
    assert f"python train.py --operation resume_train --sub_working_dir {name}" in process.stderr
    # The number of epochs may change: those of the whole run, and two more.
    done = num_epochs(run)
    raw = json.loads((run / "params.json").read_text())
    raw["gan_params"]["epoch"] = done + 2
    (run / "params.json").write_text(json.dumps(raw))
    resumed = script.run("train.py", *RESUME, name)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(rf"resumed after step \d+, in epoch \d+ of {done + 2}", resumed.stderr)
    assert not (run / "last.pth").exists()
    assert records_of(run)[:2] == records_of(finished.path)
    process = script.run("train.py", *TRAIN, other, "--set", f"gan_params={json.dumps({**GAN, 'epoch': done + 2})}")
    assert process.returncode == 0, process.stderr
    whole = script.folder / "runs" / other
    assert same_weights(weights_of(run, "generator.pth"), weights_of(whole, "generator.pth"))
    assert records_of(run) == records_of(whole)


def test_pictures_are_sampled(finished: FinishedRun) -> None:
    folder = finished.script.folder
    for name in ("pictures", "again"):
        process = finished.script.run("train.py", *SAMPLE, "first", "--out", name, "--count", "18")
        assert process.returncode == 0, process.stderr
    assert "written: again: 18 pictures of 64x32 and grid.png" in process.stderr
    names = [f"{number:06d}.png" for number in range(1, 19)]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [*names, "grid.png"]
    assert pixels(folder / "pictures" / "000001.png").shape == (64, 32, 3)
    assert pixels(folder / "pictures" / "grid.png").shape == (2 * 64, 16 * 32, 3)
    for path in (folder / "pictures").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes()
    refused(finished.script.run("train.py", *SAMPLE, "first", "--out", "pictures"), "is there already and not empty")


def test_unless_told_otherwise_there_are_64_and_runs_lie_where_the_user_says(finished: FinishedRun) -> None:
    runs = f"working_dir={finished.path.parent}"
    process = finished.script.run("train.py", *SAMPLE, "first", "--out", "many", "--set", runs)
    assert process.returncode == 0, process.stderr
    assert len(list((finished.script.folder / "many").glob("0*.png"))) == 64
    process = finished.script.run("train.py", *SAMPLE, "first", "--out", "none", "--set", "seed=3")
    refused(process, "--set seed=3: a run has the params it began with")
    assert not (finished.script.folder / "none").exists()


def test_nothing_is_sampled_of_a_run_without_a_generator(finished: FinishedRun) -> None:
    run = finished.path.parent / "reid"
    run.mkdir()
    (run / "params.json").write_bytes((finished.path / "params.json").read_bytes())
    process = finished.script.run("train.py", *SAMPLE, "reid", "--out", "none")
    refused(process, "runs/reid/generator.pth: no such file; train a generator first")
    refused(finished.script.run("train.py", *SAMPLE, "nowhere", "--out", "none"), "runs/nowhere: holds no run")
    assert not (finished.script.folder / "none").exists()


def test_a_generator_is_not_evaluated_as_a_network(finished: FinishedRun) -> None:
    for model, message in (
        (finished.path, "no finished run in this folder (no model_best.pth); train a model first"),
        (finished.path / "generator.pth", "generator.pth: holds no re-ID network; name a file that start_train made"),
    ):
        (finished.script.folder / "eval_params.json").write_text(json.dumps({"model_path": str(model)}))
        refused(finished.script.run("evaluator.py", "eval_params.json"), message)


def test_a_network_is_not_conditioned_on_or_measured_by_a_generator(finished: FinishedRun) -> None:
    for key in ("condition", "measured_by"):
        gan = json.dumps({**GAN, key: str(finished.path)})
        process = finished.script.run("train.py", *TRAIN, "none", "--set", f"gan_params={gan}")
        refused(process, f"gan_params.{key}: {finished.path}/model_best.pth: no such file; train a re-ID network first")
        assert not (finished.path.parent / "none").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("parallels=[0,1]", "parallels: train_gan trains on one device, got 2; name one"),
        ("gan_params.batch_size=32", "gan_params.batch_size: 32 is more than the 31 training images"),
        ("gan_params.pretrain_snapshot_g=gone", "gan_params.pretrain_snapshot_g: gone: no such file"),
        ("gan_params.loss=hing", 'gan_params.loss: unknown value "hing"; did you mean "hinge"?'),
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(finished: FinishedRun, settings: str, message: str) -> None:
    refused(finished.script.run("train.py", *TRAIN, "none", "--set", settings), message)
    assert not (finished.path.parent / "none").exists()


def test_check_config_finds_a_generator_that_cannot_be_mixed_in(finished: FinishedRun) -> None:
    spectral = {"model_params": {"model": "resnet_18"}, "evaluation_params": {"type": None}}
    config = finished.script.write_params(
        "mixed.json", **spectral, gan_params={"mix_ratio": 0.5, "pretrain_snapshot_g": str(finished.path)}
    )
    arguments = ("--operation", "check_config", "--config_path", str(config))
    process = finished.script.run("train.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert "4 generated images of nobody in particular join each batch of 8" in process.stderr
    process = finished.script.run("train.py", *arguments, "--set", "gan_params.lambda_consistency=1")
    refused(process, "gan_params.lambda_consistency: has no effect")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--operation", "sample_gan", "--sub_working_dir", "run"),
        ("--operation", "sample_gan", "--out", "pictures"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--count", "0"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--count", "many"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--config_path", "a.json"),
        ("--operation", "train_gan", "--count", "3"),
        ("--operation", "train_gan", "--out", "pictures"),
    ],
)
def test_mistakes_of_the_command_line(script: Script, arguments: tuple[str, ...]) -> None:
    process = script.run("train.py", *arguments)
    assert process.returncode == 2
    assert "usage: train.py" in process.stderr
    assert "Traceback" not in process.stderr
