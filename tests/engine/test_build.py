"""What is built from params, and what is said of it before it begins."""

from pathlib import Path

import numpy as np
import pytest
import torch

import engine.build
from data.decoding import RESAMPLING, Resize
from data.images import decode
from data.samples import Sample
from engine.schedules import build_schedule
from engine.summary import describe_training, plan_training
from engine.trainer import ReidTrainer
from tests.engine.conftest import MakeTrainer
from utils.precision import Compilation


def describe(trainer: ReidTrainer, **changes: object) -> str:
    params = trainer.params.model_copy(update=changes)
    steps = trainer.plan.steps_per_epoch
    return describe_training(params, trainer.plan, build_schedule(params, steps, 2 * steps), len(trainer.batches.pids))


def test_the_summary_states_the_arithmetic_of_a_training(trainer: ReidTrainer) -> None:
    text = describe(trainer)
    assert "2 epochs of 4 steps of 8 images; 11 identities" in text
    count = sum(parameter.numel() for parameter in trainer.network.parameters())
    assert f"{count / 1e6:.2f} million parameters, embedding of 24" in text


def test_a_schedule_that_leaves_nothing_to_learn_with_is_warned_of(trainer: ReidTrainer) -> None:
    assert "warning" not in describe(trainer)
    lr = trainer.params.lr.model_copy(update={"decay_step": 1, "decay_unit": "iteration"})
    assert "below a thousandth" in describe(trainer, lr=lr)


def test_groups_are_described_where_there_are_more_than_the_usual_two(trainer: ReidTrainer) -> None:
    assert "parameters by learning rate" not in describe(trainer)
    lr = trainer.params.lr.model_copy(update={"bias_factor": 2.0})
    biases = sum(p.numel() for name, p in trainer.network.backbone.named_parameters() if name.endswith("bias"))
    assert f"base_lr x 2 without weight decay: {biases}" in describe(trainer, lr=lr, decay_norms_and_biases=False)


def test_the_same_seed_builds_the_same_weights(make_trainer: MakeTrainer) -> None:
    one, same, other = make_trainer("a"), make_trainer("b"), make_trainer("c", seed=1)
    weights = [trainer.network.state_dict()["backbone.conv1.weight"] for trainer in (one, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


@pytest.mark.parametrize("data_cache", ["none", "ram"])
def test_training_images_are_resized_as_the_params_say(make_trainer: MakeTrainer, data_cache: str) -> None:
    found = []
    for interpolation in RESAMPLING:
        augmentation = {"pad": 4, "resize_h": 72, "interpolation": interpolation}
        batches = make_trainer(interpolation, data_cache=data_cache, data_augmentation=augmentation).batches
        found.append(batches.store.read([0, 3]))
        expected = [decode(batches.paths[index], Resize(72, 32, interpolation)) for index in (0, 3)]
        assert torch.equal(found[-1].permute(0, 2, 3, 1), torch.tensor(np.stack(expected)))
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("data_cache", "device", "is_named"), [("auto", "cuda", 1), ("ram", "cuda", 0), ("auto", "cpu", 0)]
)
def test_images_kept_on_a_gpu_are_named_among_what_takes_its_memory(
    trainer: ReidTrainer, data_cache: str, device: str, is_named: int
) -> None:
    params = trainer.params.model_copy(update={"data_cache": data_cache, "precision": "fp32"})
    plan = plan_training(params, [Sample(Path(), label, 0) for label in range(16)], torch.device(device))
    assert plan.memory_advice.count('data_cache to "ram"') == is_named


def test_why_nothing_is_compiled_is_logged(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    steps = []

    def choose(_: object, __: object, num_steps: int) -> Compilation:
        steps.append(num_steps)
        return Compilation("off", "no compiler")

    monkeypatch.setattr(engine.build, "choose_compilation", choose)
    assert make_trainer().stepper.compile_mode == "off"
    assert steps == [8]
    assert caplog.text.count("not compiled: no compiler") == 1
