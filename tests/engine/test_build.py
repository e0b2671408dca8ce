"""What a state holds, and what it fits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.build import Training
from utils.checkpoint import load_tensors, read_weights, save_tensors
from utils.errors import DataError

Spoil = Callable[[dict[str, Any]], object]


@pytest.fixture
def last(training: Training, tmp_path: Path) -> Path:
    path = tmp_path / "last.pth"
    save_tensors(path, training.state())
    return path


def respoiled(path: Path, spoil: Spoil) -> Path:
    state = load_tensors(path)
    spoil(state)
    save_tensors(path, state)
    return path


def test_a_state_brings_back_every_number(training: Training, tmp_path: Path) -> None:
    counters = {"epoch": 2, "step": 8, "seconds": 1.5, "best_score": 0.25, "best_accuracy": 0.5}
    for name, value in counters.items():
        setattr(training, name, value)
    training.records = [{"epoch": 1, "lr": {"base_lr": 0.1}}]
    save_tensors(tmp_path / "last.pth", training.state())
    for name in counters:
        setattr(training, name, 0)
    training.records = []
    training.restore(tmp_path / "last.pth")
    assert {name: getattr(training, name) for name in counters} == counters
    assert training.records == [{"epoch": 1, "lr": {"base_lr": 0.1}}]


def test_a_state_serves_as_a_snapshot_to_start_from(training: Training, last: Path) -> None:
    weights = read_weights(last)
    assert weights.keys() == training.network.state_dict().keys()


def test_what_an_update_changes_is_known(training: Training) -> None:
    """Only these tensors may be copied while the next step computes; running averages change in its forward pass."""
    parameters = {parameter.data_ptr() for parameter in training.network.parameters()}
    buffers = {buffer.data_ptr() for buffer in training.network.buffers()}
    updated = {tensor.data_ptr() for tensor in training.updated_tensors()}
    assert parameters <= updated
    assert not buffers & updated


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.clear(), "not the state of a training"),
        (lambda state: state.update(belongs_to=[1]), "not the state of a training"),
        (lambda state: state["model"].popitem(), "its state does not fit this run"),
        (lambda state: state.update(model=3), "its state does not fit this run"),
        (lambda state: state.update(meter=None), "its state does not fit this run"),
        (lambda state: state.update(optimizer={}), "its state does not fit this run"),
        (lambda state: state["model"].update({"backbone.conv1.weight": torch.ones(2)}), "does not fit this run"),
    ],
)
def test_a_file_that_is_no_state_of_this_run_is_refused(
    training: Training, last: Path, spoil: Spoil, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        training.restore(respoiled(last, spoil))


def test_a_file_that_is_not_there_is_refused(training: Training, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        training.restore(tmp_path / "last.pth")


@pytest.mark.parametrize(
    ("name", "before", "message"),
    [
        ("number of processes", 4, "began with 4, now it is 1; each would get another part of every batch"),
        ("kind of device", "cuda", "kind of device: the run began with cuda, now it is cpu"),
        ("precision", "bf16", "precision: the run began with bf16, now it is fp32"),
        ("params lr.base_lr", 0.5, r"params lr\.base_lr: the run began with 0\.5, now it is 0\.01"),
        ("train images", "other", "train images: other names, identities or cameras than the run began with"),
        ("query images", "other", "query images: other names"),
        ("params unknown", 1, "params unknown: the run began with 1, now it is None"),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    training: Training, last: Path, name: str, before: object, message: str
) -> None:
    path = respoiled(last, lambda state: state["belongs_to"].update({name: before}))
    with pytest.raises(DataError, match=message):
        training.restore(path)


def test_settings_that_change_no_step_may_change(training: Training, last: Path) -> None:
    free = {"epoch", "log_every", "data_cache", "keep_freed_memory", "max_bad_steps", "checkpoint.every_steps"}
    belongs_to = load_tensors(last)["belongs_to"]
    assert not {f"params {name}" for name in free | {"batches_dir", "working_dir"}} & belongs_to.keys()
    assert {"params seed", "params batch_sampling_params.P", "params model_params.model"} <= belongs_to.keys()
