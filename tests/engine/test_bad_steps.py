"""Steps whose numbers are not finite: nothing of them stays, whatever went bad, wherever it did."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from config.params import Params
from engine.batches import TrainBatch
from engine.optim import build_optimizer
from engine.step import Stepper
from losses.criterion import build_criterion
from losses.loss import Loss, Losses, LossInputs
from losses.options import CenterLossOptions, LossOptions
from models.network import build_network
from models.options import ModelParams
from tests.processes import run_in_processes
from utils.distributed import this_process
from utils.precision import FP16, FP32, Precision

MODEL = ModelParams(model="resnet_18", feature_dim=8, pcb_n_parts=2, feature_global_dim=4)
OPTIMIZERS = ["sgd", "nesterov", "adam", "amsgrad", "adamw", "rmsprop"]
BAD = 100
"""From this step on the criterion has a fault."""

Fault = Callable[[Tensor], Tensor]


class FaultyLoss(Loss):
    """Faulty from step 100 on."""

    def __init__(self, fault: Fault, rank: int) -> None:
        super().__init__("fault")
        self.fault, self.rank = fault, rank

    def forward(self, inputs: LossInputs) -> Losses:
        if inputs.step.item() >= BAD and this_process().rank == self.rank:
            return Losses({"fault": self.fault(inputs.output["global"].features)}, {})
        return Losses({}, {})


FAULTS: dict[str, Fault] = {
    "a loss of NaN": lambda features: features.sum() * math.nan,
    "an infinite loss with a finite gradient": lambda features: features.mean() + math.inf,
    # The root has no slope at 0.
    "a gradient of NaN with a finite loss": lambda features: (features - features.detach()).sum().sqrt(),
}


def make_stepper(
    optimizer: str = "sgd", fault: str = "a loss of NaN", precision: Precision = FP32, rank: int = 0
) -> Stepper:
    """`precision` decides on the scaler alone: the network computes in float32, as float16 is slow on a CPU."""
    torch.manual_seed(0)
    network = build_network(MODEL, 4)
    options = LossOptions(tri_loss_margin="soft_margin", center_loss=CenterLossOptions(weight=0.001))
    criterion = build_criterion(options, sizes=network.sizes)
    criterion["fault"] = FaultyLoss(FAULTS[fault], rank)
    params = Params.model_validate({"optimizer": optimizer, "lr": {"base_lr": 0.001, "fc_lr": 0.01}})
    stepper = Stepper(network, criterion, build_optimizer(params, network, criterion), FP32)
    stepper.scaler = torch.amp.GradScaler("cpu", enabled=precision.scales_gradients)  # pyright: ignore[reportPrivateImportUsage]
    return stepper


def make_batch(seed: int, *, spoiled: bool = False) -> TrainBatch:
    labels = torch.arange(4).repeat_interleave(2)
    pixels = torch.randn(8, 3, 32, 16, generator=torch.Generator().manual_seed(seed))
    if spoiled:
        pixels[3, 1, 7, 5] = math.nan
    return TrainBatch(pixels, labels, None, None, pixels, [], 0)


def take(stepper: Stepper, *batches: TrainBatch, step: int = 0) -> bool:
    _, finite, _ = stepper.backward(batches, step)
    stepper.update(finite)
    return bool(finite)


def state_of(stepper: Stepper) -> dict[str, Any]:
    """Copies of all that a step changes, by name."""
    modules = (stepper.network, stepper.criterion)
    state = {name: value.clone() for module in modules for name, value in module.state_dict().items()}
    for number, entry in stepper.optimizer.state_dict()["state"].items():
        state |= {f"{number} {name}": value.clone() for name, value in entry.items()}
    return state


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_as_if_there_had_been_no_bad_image(optimizer: str) -> None:
    # The very first step, too: the optimizer's state is made in it.
    stepper, undisturbed = make_stepper(optimizer), make_stepper(optimizer)
    assert not take(stepper, make_batch(7, spoiled=True))
    assert take(stepper, make_batch(1))
    assert not take(stepper, make_batch(8, spoiled=True))
    assert take(stepper, make_batch(2))
    for seed in (1, 2):
        assert take(undisturbed, make_batch(seed))
    assert_same(state_of(stepper), state_of(undisturbed))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_stays_of_a_step_whatever_is_not_finite(fault: str, optimizer: str) -> None:
    stepper = make_stepper(optimizer, fault)
    assert take(stepper, make_batch(1))
    before = state_of(stepper)
    assert not take(stepper, make_batch(2), step=BAD)
    assert_same(state_of(stepper), before)


def test_one_bad_batch_spoils_the_step_it_is_part_of_and_no_running_average() -> None:
    stepper = make_stepper()
    before = state_of(stepper)
    assert not take(stepper, make_batch(1), make_batch(2, spoiled=True), make_batch(3))
    after = state_of(stepper)
    assert_same({name: after[name] for name in before}, before)
    assert any("running_mean" in name for name in before)
    assert take(stepper, make_batch(1), make_batch(2), make_batch(3))


def test_a_branch_is_silent_if_no_loss_looks_at_it() -> None:
    stepper = make_stepper()
    assert stepper.backward([make_batch(1)], 0).silent == {}
    assert _silent(stepper) == {"parts": False, "global": False}
    del stepper.criterion["softmax"]
    assert _silent(stepper) == {"parts": True, "global": False}


def test_a_branch_is_silent_if_its_gradients_are_all_zero() -> None:
    stepper = make_stepper()
    for parameter in stepper.network.branches["parts"].parameters():
        parameter.register_hook(torch.zeros_like)
    assert _silent(stepper) == {"parts": True, "global": False}


def _silent(stepper: Stepper) -> dict[str, bool]:
    found = stepper.backward([make_batch(1)], 0, watch=True)
    return {name: bool(flag) for name, flag in found.silent.items()}


def scale_of(stepper: Stepper) -> float:
    return stepper.scaler.get_scale()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_gradients_that_overflow_when_scaled_leave_out_a_step_and_are_not_bad(optimizer: str) -> None:
    stepper, plain = make_stepper(optimizer, precision=FP16), make_stepper(optimizer)
    stepper.scaler.load_state_dict({**stepper.scaler.state_dict(), "scale": 2.0**127})
    before = {name: value.clone() for name, value in stepper.network.named_parameters()}
    assert take(stepper, make_batch(1))
    assert scale_of(stepper) == 2.0**126
    for name, value in stepper.network.named_parameters():
        assert torch.equal(value, before[name]), name
    stepper.network.load_state_dict(plain.network.state_dict())
    stepper.criterion.load_state_dict(plain.criterion.state_dict())
    stepper.scaler.update(2.0**10)
    for seed in (2, 3):
        assert take(stepper, make_batch(seed))
        assert take(plain, make_batch(seed))
    # What is multiplied by a power of two and divided by it again is as it was.
    assert_same(state_of(stepper), state_of(plain))


def test_gradients_that_are_bad_at_the_lowest_scale_too_are_bad() -> None:
    stepper = make_stepper(fault="a gradient of NaN with a finite loss", precision=FP16)
    stepper.scaler.load_state_dict({**stepper.scaler.state_dict(), "scale": 4.0})
    assert [take(stepper, make_batch(1), step=BAD) for _ in range(4)] == [True, True, False, False]
    assert scale_of(stepper) == 1.0


def test_bad_images_do_not_lower_the_scale() -> None:
    stepper = make_stepper(precision=FP16)
    assert take(stepper, make_batch(1))
    before, scale = state_of(stepper), scale_of(stepper)
    assert not take(stepper, make_batch(2, spoiled=True))
    assert_same(state_of(stepper), before)
    assert scale_of(stepper) == scale


class Outcome(NamedTuple):
    """What three steps came to, the second of them bad in one process."""

    applied: list[bool]
    is_unchanged: bool
    """Whether all was after the second as before it."""
    weights: dict[str, Tensor]


CASES = [(fault, FP32) for fault in FAULTS] + [("an infinite loss with a finite gradient", FP16)]


def steps_with_a_fault_in_one() -> list[Outcome]:
    return [_steps_with_a_fault_in_one(fault, precision) for fault, precision in CASES]


def _steps_with_a_fault_in_one(fault: str, precision: Precision) -> Outcome:
    stepper = make_stepper(fault=fault, rank=1, precision=precision)
    seed = 10 * this_process().rank
    applied = [take(stepper, make_batch(seed))]
    before = state_of(stepper)
    applied.append(take(stepper, make_batch(seed + 1), step=BAD))
    after = state_of(stepper)
    is_unchanged = all(torch.equal(after[name], value) for name, value in before.items())
    applied.append(take(stepper, make_batch(seed + 2)))
    return Outcome(applied, is_unchanged, dict(stepper.network.named_parameters()))


def test_what_is_bad_in_one_process_is_bad_in_all() -> None:
    first, second = run_in_processes(steps_with_a_fault_in_one, 2)
    for case, one, other in zip(CASES, first, second, strict=True):
        assert one.applied == other.applied == [True, False, True], case
        assert one.is_unchanged, case
        assert other.is_unchanged, case
        assert_same(one.weights, other.weights)
