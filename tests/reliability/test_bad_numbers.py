"""A training whose numbers go bad, as a user sees it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Script
from utils.checkpoint import load_tensors

HOPELESS = {"base_lr": 1e30, "fc_lr": 1e30}
"""The first step is applied; after it no loss is finite."""


@pytest.fixture
def script(script: Script, make_market: Callable[[Path], Path]) -> Script:
    make_market(script.folder / "market")
    return script


def test_a_training_that_diverges_stops_with_a_diagnosis_and_a_state(script: Script) -> None:
    script.write_params(lr=HOPELESS)
    process = script.run("train.py", "--sub_working_dir", "run")
    told = process.stderr
    assert process.returncode == 2, told
    assert "Traceback" not in told
    assert re.findall(r"step (\d+) was not applied", told) == ["2", "3", "4"]
    assert re.search(r"softmax_parts (nan|inf)", told)
    images = re.findall(r"^  \S+/bounding_box_train/\S+$", told, flags=re.MULTILINE)
    assert len(images) == 3 * 8
    assert all(Path(image.strip()).is_file() for image in images)
    assert "training has diverged: skipped 3 steps in a row up to step 4" in told
    assert "lower lr or warm up longer" in told
    state = load_tensors(script.folder / "runs" / "run" / "last.pth")
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values() if torch.is_floating_point(value))
    # It can be gone on from, though that does not mend the weights that the first step had spoiled.
    message = script.mistake("train.py", "--operation", "resume_train", "--sub_working_dir", "run")
    assert "resumed after step 4" in message
    assert "diverged" in message


def test_how_many_bad_steps_are_let_pass_is_the_user_s(script: Script) -> None:
    script.write_params(lr=HOPELESS, max_bad_steps=1)
    message = script.mistake("train.py", "--sub_working_dir", "run")
    assert message.count("was not applied") == 1
    assert "training has diverged: skipped 1 step up to step 2" in message
