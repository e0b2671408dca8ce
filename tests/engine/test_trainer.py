"""The loop: what a state holds and which runs may resume from it, what ends a training, and what is recorded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.run import Run
from engine.schedules import Schedule
from engine.trainer import ReidTrainer
from tests.engine.conftest import Clock, MakeTrainer
from utils.checkpoint import load_checkpoint, load_tensors, read_weights, save_tensors
from utils.errors import DataError, ParamsError, UserError

Spoil = Callable[[dict[str, Any]], object]


@pytest.fixture
def last(trainer: ReidTrainer) -> Path:
    """The state of a run before its first step."""
    save_tensors(trainer.folder.last, trainer.state())
    return trainer.folder.last


def spoil_state(path: Path, spoil: Spoil) -> None:
    state = load_tensors(path)
    spoil(state)
    save_tensors(path, state)


def test_a_training_leaves_the_model_its_metrics_and_curves(trainer: ReidTrainer) -> None:
    trainer.fit()
    assert (trainer.epoch, trainer.step) == (2, 8)
    kept = load_checkpoint(trainer.folder.best)
    assert kept.labels == trainer.batches.pids
    assert kept.model.keys() == trainer.network.state_dict().keys()
    lines = trainer.folder.metrics.read_text().splitlines()
    assert len(lines) == 2
    assert not trainer.folder.last.exists()
    assert list(trainer.folder.path.glob("events.out.tfevents.*"))


def test_a_state_brings_back_every_number(trainer: ReidTrainer, make_trainer: MakeTrainer) -> None:
    # Two epochs of four steps, stopped after the sixth.
    for step, batches in enumerate([*trainer.load_steps(), *trainer.load_steps()][:6]):
        trainer.train_step(batches)
        trainer.step = step + 1
    trainer.raise_if_diverged(trainer.meter.collect())
    trainer.epoch, trainer.records = 1, [{"epoch": 1, "measures": {"accuracy": 0.5}}]
    trainer.clock.start()
    trainer.clock.end_step()
    save_tensors(trainer.folder.last, trainer.state())
    again = make_trainer()
    again.resume()
    assert (again.epoch, again.step, again.clock.seconds) == (1, 6, trainer.clock.seconds)
    assert again.records == trainer.records
    assert again.is_resumed
    assert_equal(again.state(), trainer.state())


def train_to(trainer: ReidTrainer, last_step: int) -> None:
    """Train in epochs of four steps until so many are done."""
    while trainer.step < last_step:
        trainer.begin_epoch()
        for batches in list(trainer.load_steps())[: last_step - trainer.step]:
            trainer.train_step(batches)
            trainer.step += 1
        trainer.epoch = trainer.step // 4
    trainer.raise_if_diverged(trainer.meter.collect())


@pytest.mark.parametrize("stop", [2, 3, 6])
def test_a_backbone_frozen_at_first_and_an_average_go_on_where_they_stood(
    make_trainer: MakeTrainer, tmp_path: Path, stop: int
) -> None:
    torch.save(make_trainer("start").network.state_dict(), tmp_path / "start.pth")
    lr = {"base_lr": 0.01, "fc_lr": 0.01, "freeze_backbone_steps": 3}
    changes = {"pretrain_snapshot": str(tmp_path / "start.pth"), "lr": lr, "clip_grad_norm": 1.0, "ema_decay": 0.5}
    whole = make_trainer(**changes)
    train_to(whole, stop)
    save_tensors(whole.folder.last, whole.state())
    train_to(whole, 7)
    resumed = make_trainer(**changes)
    resumed.resume()
    train_to(resumed, 7)
    for name in ("model", "average", "optimizer", "meter"):
        assert_equal(resumed.state()[name], whole.state()[name])


def test_the_average_is_evaluated_and_kept(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ema_decay=0.5)
    trainer.fit()
    average = trainer.stepper.evaluated.state_dict()
    assert trainer.embedder.network is trainer.stepper.evaluated
    kept = load_checkpoint(trainer.folder.best).model
    assert_equal(kept, average)
    name = "backbone.conv1.weight"
    assert not torch.equal(kept[name], trainer.network.state_dict()[name])


def test_the_first_step_is_left_out_of_the_images_per_second(
    trainer: ReidTrainer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = trainer.train_step

    def take_time(batches: Any) -> torch.Tensor:
        clock.advance(0.25 if trainer.step else 90.0)
        return train_step(batches)

    monkeypatch.setattr(trainer, "train_step", take_time)
    trainer.fit()
    records = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    # Two epochs of four steps of eight images.
    assert [record["examples_per_second"] for record in records] == [32.0, 32.0]
    assert [record["seconds"] > 90 for record in records] == [True, False]


def assert_equal(found: Any, expected: Any) -> None:
    """Equal dicts and lists of tensors and plain values."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_a_state_serves_as_a_snapshot_to_start_from(trainer: ReidTrainer, last: Path) -> None:
    assert read_weights(last).keys() == trainer.network.state_dict().keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.clear(), "not the state of a training"),
        (lambda state: state.update(fingerprint=[1]), "not the state of a training"),
        (lambda state: state["model"].popitem(), "does not fit this run"),
        (lambda state: state.update(model=3), "does not fit this run"),
        (lambda state: state.update(meter=None), "does not fit this run"),
        (lambda state: state.update(optimizer={}), "does not fit this run"),
        (lambda state: state["model"].update({"backbone.conv1.weight": torch.ones(2)}), "does not fit this run"),
        (lambda state: state["fingerprint"].update({"number of processes": 4}), "began with 4, now it is 1"),
        (lambda state: state["fingerprint"].update({"kind of device": "cuda"}), "began with cuda, now it is cpu"),
        (lambda state: state["fingerprint"].update({"precision": "bf16"}), "began with bf16, now it is fp32"),
        (lambda state: state["fingerprint"].update({"params lr.base_lr": 0.5}), r"base_lr: .* 0\.5, now it is 0\.01"),
        (lambda state: state["fingerprint"].update({"train images": "x"}), "train images: other names, identities"),
        (lambda state: state["fingerprint"].update({"params unknown": 1}), "params unknown: .* 1, now it is None"),
    ],
)
def test_a_state_of_another_run_is_refused(trainer: ReidTrainer, last: Path, spoil: Spoil, message: str) -> None:
    spoil_state(last, spoil)
    with pytest.raises(DataError, match=message):
        trainer.resume()


def test_a_state_that_is_missing_or_complete_is_refused(trainer: ReidTrainer) -> None:
    with pytest.raises(DataError, match="no such file"):
        trainer.resume()
    save_tensors(trainer.folder.last, trainer.state() | {"epoch": 2})
    with pytest.raises(ParamsError, match="epoch: 2 epochs are done; set at least 3"):
        trainer.resume()


def test_settings_that_change_no_step_may_change(trainer: ReidTrainer) -> None:
    free = {"epoch", "log_every", "data_cache", "keep_freed_memory", "max_bad_steps", "checkpoint.every_steps"}
    assert not {f"params {name}" for name in free | {"batches_dir", "working_dir"}} & trainer.fingerprint.keys()
    fixed = {"params seed", "params batch_sampling_params.P", "params model_params.model"}
    assert fixed <= trainer.fingerprint.keys()


@pytest.mark.parametrize(
    ("precision", "advice"), [("fp32", 'or set precision "bf16"'), ("bf16", "take a smaller model$")]
)
def test_too_little_memory_is_explained_with_what_to_lower(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, precision: str, advice: str
) -> None:
    def step(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    trainer = make_trainer(precision=precision)
    monkeypatch.setattr(trainer.stepper, "backward", step)
    with pytest.raises(UserError, match=advice) as told:
        trainer.fit()
    doing = f"training on cpu with 8 images of 64 x 32 a batch in {precision}"
    assert str(told.value).startswith(f"out of memory, {doing}: CUDA out of memory. Tried to allocate 9 GiB.\n")
    assert "lower batch_sampling_params.P or K" in str(told.value)


def test_a_schedule_of_ones_own_trains_and_is_part_of_the_fingerprint(
    trainer: ReidTrainer, make_trainer: MakeTrainer
) -> None:
    """A schedule is one function of the step; one that ends with the training says how many steps there are."""
    total = trainer.plan.num_epochs * trainer.plan.steps_per_epoch
    to_zero = Schedule(lambda step: 1 - step / total, total)
    run = Run(trainer.params, trainer.folder, trainer.device, trainer.plan, trainer.fingerprint)
    own = ReidTrainer(run, trainer.batches, trainer.stepper, to_zero, None)
    rates = []
    for batches in own.load_steps():
        own.train_step(batches)
        own.step += 1
        rates.append(own.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 * (1 - step / 8) for step in range(4)])
    assert trainer.fingerprint["steps of the learning-rate schedule"] is None
    ends = make_trainer("ends", lr={"schedule": "cosine"})
    assert ends.fingerprint["steps of the learning-rate schedule"] == 8
    save_tensors(ends.folder.last, ends.state())
    with pytest.raises(DataError, match="steps of the learning-rate schedule: the run began with 8, now it is 12"):
        make_trainer("ends", lr={"schedule": "cosine"}, epoch=3).resume()
