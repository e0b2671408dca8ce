"""Learning rates over a training, against the schedulers of torch and values from the formulas."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from config.params import Params
from engine.schedules import Schedule, build_schedule
from utils.errors import ParamsError

EPOCH = 10
"""Steps of an epoch."""


def schedule(epochs: int = 100, *, class_balanced: bool = False, **lr: Any) -> Schedule:
    sampling = {"class_balanced": class_balanced}
    params = Params.model_validate({"epoch": epochs, "lr": lr, "batch_sampling_params": sampling})
    return build_schedule(params, EPOCH, epochs * EPOCH)


def factors(steps: list[int], *, class_balanced: bool = False, **lr: Any) -> list[float]:
    return [schedule(class_balanced=class_balanced, **lr).factor(step) for step in steps]


def test_decays_every_so_many_epochs() -> None:
    assert factors([0, 29, 30, 59, 60], decay_step=3) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_decay_step_counts_iterations_with_class_balanced_sampling() -> None:
    found = factors([0, 2, 3, 6], decay_step=3, decay_gamma=0.5, class_balanced=True)
    assert found == pytest.approx([1, 1, 0.5, 0.25])


@pytest.mark.parametrize("class_balanced", [True, False])
def test_decay_unit_says_which(class_balanced: bool) -> None:
    found = factors([3, 30], decay_step=3, decay_unit="epoch", class_balanced=class_balanced)
    assert found == pytest.approx([1, 0.1])
    assert factors([3], decay_step=3, decay_unit="iteration", class_balanced=class_balanced) == pytest.approx([0.1])


def test_a_list_names_each_decay_and_zero_means_never() -> None:
    assert factors([19, 20, 49, 50, 500], decay_step=(2, 5)) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert factors([0, 10**6], decay_step=0) == [1, 1]


def test_warm_up_rises_linearly_and_then_leaves_the_rate_alone() -> None:
    assert factors([0, 10, 20, 21], decay_step=0, warmup_epoch=2) == pytest.approx([0.1, 0.55, 1, 1])
    assert factors([0, 5], decay_step=0, warmup_epoch=0.5) == pytest.approx([0.1, 1])
    assert factors([0, 2, 4, 5], decay_step=0, warmup_steps=4) == pytest.approx([0.1, 0.55, 1, 1])


def test_warm_up_and_decay_multiply() -> None:
    assert factors([10], decay_step=1, decay_gamma=0.5, warmup_epoch=2) == pytest.approx([0.5 * 0.55])


def rates_of_torch(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    """Learning rates of a scheduler of torch, from a full rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def after_warm_up(
    steps: int, make: Callable[[torch.optim.Optimizer], LRScheduler]
) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    return lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1.0, steps), make(o)], [steps])


@pytest.mark.parametrize(
    ("lr", "scheduler"),
    [
        ({"schedule": "cosine"}, lambda o: CosineAnnealingLR(o, 50)),
        ({"schedule": "cosine", "end_factor": 0.2}, lambda o: CosineAnnealingLR(o, 50, eta_min=0.2)),
        ({"schedule": "cosine", "warmup_epoch": 2}, after_warm_up(20, lambda o: CosineAnnealingLR(o, 30))),
        ({"schedule": "cosine", "warmup_steps": 7}, after_warm_up(7, lambda o: CosineAnnealingLR(o, 43))),
        ({"schedule": "poly", "poly_power": 0.9}, lambda o: PolynomialLR(o, 50, 0.9)),
        ({"schedule": "poly", "warmup_steps": 20}, after_warm_up(20, lambda o: PolynomialLR(o, 30, 1.0))),
        (
            {"schedule": "flat_cosine", "flat_epoch": 2, "end_factor": 1e-3},
            lambda o: SequentialLR(o, [LinearLR(o, 1.0, 1.0, 20), CosineAnnealingLR(o, 30, eta_min=1e-3)], [20]),
        ),
    ],
)
def test_every_step_has_the_rate_that_torch_gives_it(
    lr: dict[str, Any], scheduler: Callable[[torch.optim.Optimizer], LRScheduler]
) -> None:
    found = schedule(5, **lr)
    assert found.total_steps == 50
    assert [found.factor(step) for step in range(50)] == pytest.approx(rates_of_torch(scheduler, 50), abs=1e-9)


def test_the_warm_up_is_a_part_of_the_flat_one() -> None:
    found = schedule(6, schedule="flat_cosine", flat_epoch=3, warmup_epoch=1, end_factor=0.002)
    assert [found.factor(step) for step in (0, 5, 10, 30)] == pytest.approx([0.1, 0.55, 1, 1])
    assert found.factor(45) == pytest.approx(0.501)  # halfway down
    assert found.factor(59) == pytest.approx(0.002 + 0.998 * (1 + math.cos(math.pi * 29 / 30)) / 2)
    assert found.factor(60) == pytest.approx(0.002)


def test_poly_ends_at_its_end_factor() -> None:
    found = schedule(1, schedule="poly", poly_power=2, end_factor=0.1)
    assert [found.factor(step) for step in (0, 5, 10)] == pytest.approx([1, 0.1 + 0.9 * 0.25, 0.1])


def test_only_a_schedule_that_ends_with_the_training_depends_on_its_length() -> None:
    assert schedule(5, decay_step=2, warmup_steps=50).total_steps is None


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        ({"warmup_steps": 51}, ["lr.warmup_steps: 51", "epoch 5"]),
        ({"schedule": "cosine", "warmup_steps": 50}, ["lr.warmup_steps: 50", "epoch 5", 'lr.schedule "cosine"']),
        ({"schedule": "poly", "warmup_epoch": 5}, ["lr.warmup_epoch: 50", "epoch 5", 'lr.schedule "poly"']),
        ({"freeze_backbone_steps": 50}, ["lr.freeze_backbone_steps: 50", "epoch 5"]),
        ({"schedule": "flat_cosine", "flat_epoch": 4.99}, ["lr.flat_epoch: 50", "epoch 5"]),
    ],
)
def test_a_part_that_is_longer_than_the_training_is_refused(lr: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ParamsError) as told:
        schedule(5, **lr)
    assert all(word in str(told.value) for word in words)
