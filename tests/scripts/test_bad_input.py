"""A user's mistakes through the real entry scripts: exit code 2, one message, no traceback, nothing lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY_PARAMS, Script


def model(**changes: object) -> dict[str, object]:
    return {"model_params": {**TINY_PARAMS["model_params"], **changes}}


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "market" / "bounding_box_train")
    (folder / "market" / "bounding_box_train").mkdir()


def truncate(folder: Path) -> None:
    image = folder / "market" / "query" / "0031_c2s1_000001_00.jpg"
    image.write_bytes(image.read_bytes()[:200])


def lose_matches(folder: Path) -> None:
    for image in (folder / "market" / "bounding_box_test").iterdir():
        image.rename(image.with_name(f"99{image.name.lstrip('-')}"))


DATA_MISTAKES = {
    "missing": (lambda folder: shutil.rmtree(folder / "market"), "market: no such folder; set batches_dir"),
    "empty": (empty, "market: no training images found"),
    "no query": (lambda folder: shutil.rmtree(folder / "market" / "query"), "market: no query images"),
    "no match": (lose_matches, "the gallery shows none of the persons of the 7 query images"),
    "truncated": (truncate, "0031_c2s1_000001_00.jpg: "),
}
PARAMS_MISTAKES = {
    "unknown model": (model(model="resnet_51"), 'params.json: model_params.model: unknown value "resnet_51"'),
    "height": (model(pcb_n_parts=4), "params.json: model_params.pcb_n_parts: 4 stripes do not divide the 2 rows"),
    "dim": (model(feature_dim=15), "params.json: model_params.feature_dim: 15 does not divide"),
    "notation": ({"batch_sampling_params": "32x2"}, "params.json: batch_sampling_params: expected an object, or"),
    "branches": (
        model(random_drop_branches=2, pcb_n_parts=1),
        "params.json: model_params.random_drop_branches: chooses among stripes",
    ),
    "unknown key": ({"lr": {"bas_lr": 1}}, "params.json: lr.bas_lr: unknown key; did you mean 'base_lr'?"),
    "unknown plug-in": ({"evaluation_params": {"type": "marker_evaluate"}}, "market_evaluate"),
    "P": ({"batch_sampling_params": {"class_balanced": True, "P": 12, "K": 2}}, "the training set has 11; lower P"),
    "no GPU": ({"parallels": [3]}, "parallels: there is no GPU 3; this machine has 0"),
    "snapshot": ({"pretrain_snapshot": "missing.pth"}, "missing.pth: no such file"),
}


@pytest.fixture
def train(script: Script, make_market: Callable[[Path], Path]) -> Callable[[], str]:
    """Starts a training that must be refused, and returns its message."""
    make_market(script.folder / "market")

    def start() -> str:
        message = script.mistake("train.py", "--operation", "start_train", "--sub_working_dir", "run")
        # A start that fails leaves nothing that would be in the way of the next.
        assert not (script.folder / "runs" / "run").exists()
        return message

    return start


@pytest.mark.parametrize("name", [*DATA_MISTAKES, *PARAMS_MISTAKES])
def test_data_or_params_that_cannot_be_used(name: str, script: Script, train: Callable[[], str]) -> None:
    changes, message = PARAMS_MISTAKES.get(name, ({}, ""))
    script.write_params(**changes)  # pyright: ignore[reportArgumentType]
    if name in DATA_MISTAKES:
        spoil, message = DATA_MISTAKES[name]
        spoil(script.folder)
    assert message in train()


def test_a_trailing_comma_is_told_with_line_and_column(script: Script, train: Callable[[], str]) -> None:
    (script.folder / "params.json").write_text('{\n  "epoch": 2,\n}\n')
    assert "params.json: not valid JSON: line 2, column 13: trailing comma" in train()


@pytest.mark.skipif(os.name != "posix", reason="folder permissions as POSIX has them")
def test_a_working_dir_that_cannot_be_written(script: Script, train: Callable[[], str]) -> None:
    # A file where the folder should be stops root as well, whom permissions do not.
    (script.folder / "occupied").write_text("")
    script.write_params(working_dir="occupied")
    assert "occupied/run: cannot be made" in train()


def test_a_working_dir_without_write_permission(script: Script, train: Callable[[], str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root")
    (script.folder / "locked").mkdir(mode=0o500)
    script.write_params(working_dir="locked")
    assert "locked/run: cannot be made (Permission denied)" in train()


def test_bad_images_can_be_skipped(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    truncate(script.folder)
    script.write_params(bad_images="skip", epoch=1)
    process = script.succeed("train.py", "--operation", "start_train", "--sub_working_dir", "run")
    assert "left out:" in process.stderr
    assert "query: 1 of 7 images unreadable, left out" in process.stderr


def test_a_run_that_is_not_there_and_a_name_that_leaves_the_working_dir(script: Script) -> None:
    script.write_params()
    resume = ("--operation", "resume_train", "--sub_working_dir")
    assert "runs/nowhere: holds no run" in script.mistake("train.py", *resume, "nowhere")
    message = script.mistake("train.py", "--sub_working_dir", "../run")
    assert "--sub_working_dir '../run': must name a folder inside runs" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_path": "missing.pth"}', "missing.pth: no such file or folder"),
        ('{"model_path": "broken.pth"}', "broken.pth: not a checkpoint that can be loaded safely"),
        ('{"model_pth": "runs"}', "eval_params.json: model_pth: unknown key; did you mean 'model_path'?"),
    ],
)
def test_mistakes_of_the_evaluator(script: Script, content: str, message: str) -> None:
    (script.folder / "broken.pth").write_text("no checkpoint")
    (script.folder / "eval_params.json").write_text(content)
    assert message in script.mistake("evaluator.py", "eval_params.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--operation", "strat_train"),
        ("--operation", "resume_train"),
        ("--operation", "make_synthetic"),
        ("--operation", "build_lmdb"),
        ("--operation", "export_onnx"),
        ("--operation", "sample_gan", "--sub_working_dir", "run"),
        ("--operation", "sample_gan", "--out", "pictures"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--count", "0"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--count", "many"),
        ("--operation", "sample_gan", "--sub_working_dir", "run", "--out", "pictures", "--config_path", "a.json"),
        ("--operation", "train_gan", "--count", "3"),
        ("--operation", "train_gan", "--out", "pictures"),
        ("--operation", "build_lmdb", "--out", "x.lmdb", "--sub_working_dir", "run"),
        ("--operation", "resume_train", "--sub_working_dir", "run", "--config_path", "params.json"),
        ("--operation", "check_config", "--sub_working_dir", "run"),
        ("--operation", "check_config", "--detach"),
    ],
)
def test_mistakes_of_the_command_line(script: Script, arguments: tuple[str, ...]) -> None:
    assert "usage: train.py" in script.mistake("train.py", *arguments)
