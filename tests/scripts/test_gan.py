"""train.py --operation train_gan and sample_gan, as processes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.conftest import GAN, FinishedRun

TRAIN = ("--operation", "train_gan", "--sub_working_dir")
SAMPLE = ("--operation", "sample_gan", "--sub_working_dir")


@pytest.fixture
def finished(finished_generator: FinishedRun) -> FinishedRun:
    return finished_generator


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_screen_tells_what_happens(finished: FinishedRun) -> None:
    output = finished.messages
    for line in (
        r"computing on the CPU: \d+ cores",
        r"train +31 +11 +3 +0 +0",
        r"2 epochs of 4 steps, of 8 images each; pictures of 64x32 of anybody",
        r"epoch 2/2  generator -?\d+\.\d+  discriminator \d+\.\d+  penalty .* \d+ examples/s",
    ):
        assert re.search(line, output), f"{line}\nnot in\n{output}"


def test_pictures_are_sampled(finished: FinishedRun) -> None:
    folder = finished.script.folder
    for name in ("pictures", "again"):
        process = finished.script.succeed("train.py", *SAMPLE, "first", "--out", name, "--count", "18")
    assert "written: again: 18 pictures of 64x32 and grid.png" in process.stderr
    names = [f"{number:06d}.png" for number in range(1, 19)]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [*names, "grid.png"]
    assert pixels(folder / "pictures" / "000001.png").shape == (64, 32, 3)
    assert pixels(folder / "pictures" / "grid.png").shape == (2 * 64, 16 * 32, 3)
    for path in (folder / "pictures").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes()
    assert "already exists" in finished.script.mistake("train.py", *SAMPLE, "first", "--out", "pictures")


def test_unless_told_otherwise_there_are_64_and_runs_lie_where_the_user_says(finished: FinishedRun) -> None:
    runs = f"working_dir={finished.path.parent}"
    finished.script.succeed("train.py", *SAMPLE, "first", "--out", "many", "--set", runs)
    assert len(list((finished.script.folder / "many").glob("0*.png"))) == 64
    message = finished.script.mistake("train.py", *SAMPLE, "first", "--out", "none", "--set", "seed=3")
    assert "--set seed=3: a run has the params it began with" in message
    assert not (finished.script.folder / "none").exists()


def test_nothing_is_sampled_of_a_run_without_a_generator(finished: FinishedRun) -> None:
    run = finished.path.parent / "reid"
    run.mkdir()
    (run / "params.json").write_bytes((finished.path / "params.json").read_bytes())
    for name, message in (("reid", "generator.pth: no such file; train a generator"), ("nowhere", "holds no run")):
        assert f"runs/{name}" in (told := finished.script.mistake("train.py", *SAMPLE, name, "--out", "none"))
        assert message in told
    assert not (finished.script.folder / "none").exists()


def test_a_generator_is_not_evaluated_as_a_network(finished: FinishedRun) -> None:
    for model, message in (
        (finished.path, "no finished run in this folder (no model_best.pth); train a model first"),
        (finished.path / "generator.pth", "generator.pth: holds no re-ID network; name a file that start_train made"),
    ):
        (finished.script.folder / "eval_params.json").write_text(json.dumps({"model_path": str(model)}))
        assert message in finished.script.mistake("evaluator.py", "eval_params.json")


def test_a_network_is_not_conditioned_on_or_measured_by_a_generator(finished: FinishedRun) -> None:
    for key in ("condition", "measured_by"):
        gan = json.dumps({**GAN, key: str(finished.path)})
        message = finished.script.mistake("train.py", *TRAIN, "none", "--set", f"gan_params={gan}")
        assert f"gan_params.{key}: {finished.path}/model_best.pth: no such file; train a re-ID network" in message
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
    assert message in finished.script.mistake("train.py", *TRAIN, "none", "--set", settings)
    assert not (finished.path.parent / "none").exists()


def test_check_config_finds_a_generator_that_cannot_be_mixed_in(finished: FinishedRun) -> None:
    spectral = {"model_params": {"model": "resnet_18"}, "evaluation_params": {"type": None}}
    config = finished.script.write_params(
        "mixed.json", **spectral, gan_params={"mix_ratio": 0.5, "pretrain_snapshot_g": str(finished.path)}
    )
    arguments = ("--operation", "check_config", "--config_path", str(config))
    process = finished.script.succeed("train.py", *arguments)
    assert "4 generated images of nobody in particular join each batch of 8" in process.stderr
    message = finished.script.mistake("train.py", *arguments, "--set", "gan_params.lambda_consistency=1")
    assert "gan_params.lambda_consistency: has no effect" in message
