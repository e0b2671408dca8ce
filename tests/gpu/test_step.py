"""Whole steps on a GPU: compiled or not, in every number format, without waiting for the device."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from torch.nn.utils import get_total_norm

from engine.batches import TrainBatch
from engine.step import Stepper
from losses.criterion import build_criterion
from losses.loss import Losses
from models.network import build_network
from tests.engine.test_step import IDENTITIES, LOSSES, MODEL, make_batch
from tests.gpu.conftest import BOTH, CPU, CUDA, GPU_ONLY, never_waits
from utils.precision import BF16, FP16, FP32, Precision

Mode = Literal["on", "graphs", "off"]
ALL = [(FP32,), (BF16,), (FP16,)]


def cases(on_cpu: Sequence[tuple[Any, ...]], on_gpu: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The arguments of a test on each device, behind which they stand: a precision, and a mode of the compiler."""
    places = [(CPU, case, ()) for case in on_cpu] + [(CUDA, case, GPU_ONLY) for case in on_gpu]
    return [
        pytest.param(device, *case, marks=marks, id="-".join([device.type, case[0].name, *case[1:]]))
        for device, case, marks in places
    ]


# Each is compiled for half a minute.
COMPILED = cases([(FP32, "on")], [(FP32, "on"), (BF16, "on"), (BF16, "graphs"), (FP16, "on")])


def make_stepper(device: torch.device, precision: Precision, mode: Mode = "off") -> Stepper:
    torch.manual_seed(0)
    network = build_network(MODEL, IDENTITIES).to(device)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # Larger steps would soon make a great difference of a small one.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, fused=True)
    return Stepper(network, build_criterion(LOSSES).to(device), optimizer, precision, mode)


def on_device(seed: int, precision: Precision, device: torch.device) -> TrainBatch:
    batch = make_batch(seed)
    pixels = batch.pixels.to(device, precision.dtype).contiguous(memory_format=torch.channels_last)
    return batch._replace(pixels=pixels, labels=batch.labels.to(device))


def train(
    device: torch.device, precision: Precision, mode: Mode = "off", steps: int = 4, batches: int = 1
) -> list[float]:
    """The sum of the losses of each batch, and the norm of the last gradient, read at the end only, as in a training.

    Each step adds up the gradients of its batches. Of float16 without the gradient, which overflows at first.
    """
    stepper = make_stepper(device, precision, mode)
    found = []
    for step in range(steps):
        of_step = [on_device(batches * step + number, precision, device) for number in range(batches)]
        losses, finite, _ = stepper.backward(of_step, step)
        stepper.update(finite)
        found += losses
    gradients = [parameter.grad for parameter in stepper.network.parameters() if parameter.grad is not None]
    sums = [math.fsum(term.item() for term in losses.losses.values()) for losses in found]
    return sums if precision is FP16 else [*sums, get_total_norm(gradients).item()]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("device", "precision", "mode"), COMPILED, indirect=["device"])
def test_compiled_steps_are_the_plain_ones(device: torch.device, precision: Precision, mode: Mode) -> None:
    plain, compiled = train(device, precision, batches=2), train(device, precision, mode, batches=2)
    assert compiled == pytest.approx(plain, rel=2e-2 if precision is FP32 else 5e-2)


@pytest.mark.parametrize(("device", "precision"), cases([(BF16,)], ALL[1:]), indirect=["device"])
def test_half_precision_begins_like_float32(device: torch.device, precision: Precision) -> None:
    begun = train(device, precision, steps=1)
    assert begun == pytest.approx(train(device, FP32, steps=1)[: len(begun)], rel=3e-2)


@pytest.mark.parametrize(("device", "precision"), cases(ALL[:2], ALL), indirect=["device"])
def test_no_step_waits_for_the_device(device: torch.device, precision: Precision) -> None:
    stepper, batches = make_stepper(device, precision), [on_device(step, precision, device) for step in range(2)]
    losses: list[Losses] = []

    def take(step: int) -> None:
        found, finite, _ = stepper.backward([batches[step]] * 2, step, watch=True)
        stepper.update(finite)
        losses.extend(found)

    take(0)
    with never_waits(device):
        take(1)
    assert all(torch.stack(list(each.losses.values())).isfinite().all() for each in losses)


@pytest.mark.parametrize(("device", "precision"), cases(ALL, ALL), indirect=["device"])
def test_nothing_stays_of_a_step_with_a_bad_image(device: torch.device, precision: Precision) -> None:
    stepper = make_stepper(device, precision)
    before = {name: value.clone() for name, value in stepper.network.state_dict().items()}
    batch = on_device(0, precision, device)
    batch.pixels[1, 2, 3, 4] = torch.nan
    _, finite, _ = stepper.backward([batch], 0)
    stepper.update(finite)
    assert not finite
    assert all(torch.equal(value, before[name]) for name, value in stepper.network.state_dict().items())
    assert all(entry["momentum_buffer"].eq(0).all() for entry in stepper.optimizer.state.values())


@BOTH
def test_the_scaler_of_gradients_goes_on_where_it_stood(device: torch.device) -> None:
    stepper, resumed = make_stepper(device, FP16), make_stepper(device, FP16)
    _, finite, _ = stepper.backward([on_device(0, FP16, device)], 0)
    stepper.update(finite)
    stepper.scaler.update(1024.0)
    resumed.scaler.load_state_dict(stepper.scaler.state_dict())
    assert resumed.scaler.get_scale() == stepper.scaler.get_scale() == 1024.0
    assert all(value.dtype != torch.float16 for value in stepper.network.state_dict().values())
