"""Whole steps on a GPU: compiled or not, in every number format, without waiting for the device."""

from typing import Literal

import pytest
import torch

from engine.batches import TrainBatch
from engine.step import Stepper
from losses.criterion import build_criterion
from losses.loss import Losses
from models.network import build_network
from tests.engine.test_step import IDENTITIES, LOSSES, MODEL, make_batch
from utils.precision import BF16, FP16, FP32, Precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def make_stepper(precision: Precision, mode: Literal["on", "graphs", "off"] = "off") -> Stepper:
    torch.manual_seed(0)
    network = build_network(MODEL, IDENTITIES).cuda()
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
    return Stepper(network, build_criterion(LOSSES).cuda(), optimizer, precision, mode)


def on_gpu(seed: int, precision: Precision) -> TrainBatch:
    batch = make_batch(seed)
    pixels = batch.pixels.cuda().to(precision.dtype).contiguous(memory_format=torch.channels_last)
    return batch._replace(pixels=pixels, labels=batch.labels.cuda())


def train(precision: Precision, mode: Literal["on", "graphs", "off"] = "off", steps: int = 4) -> list[float]:
    """The sum of the losses at each step; read at the end only, as a training does."""
    stepper = make_stepper(precision, mode)
    found = []
    for step in range(steps):
        losses, finite, _ = stepper.backward([on_gpu(step, precision)], step)
        stepper.update(finite)
        found += losses
    return [sum(term.item() for term in losses.losses.values()) for losses in found]


@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=lambda precision: precision.name)
@pytest.mark.parametrize("mode", ["on", "graphs"])
def test_compiled_steps_are_the_plain_ones(precision: Precision, mode: Literal["on", "graphs"]) -> None:
    plain, compiled = train(precision), train(precision, mode)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-3 if precision is FP32 else 3e-2)
    assert compiled == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("precision", [BF16, FP16], ids=lambda precision: precision.name)
def test_half_precision_begins_like_float32(precision: Precision) -> None:
    assert train(precision, steps=1) == pytest.approx(train(FP32, steps=1), rel=3e-2)


@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=lambda precision: precision.name)
def test_no_step_waits_for_the_device(precision: Precision) -> None:
    stepper, batches = make_stepper(precision), [on_gpu(step, precision) for step in range(3)]
    losses: list[Losses] = []
    try:
        for step, batch in enumerate(batches):  # the first ones set up libraries, which may wait
            torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
            losses, finite, _ = stepper.backward([batch, batch], step, watch=True)
            stepper.update(finite)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.stack(list(each.losses.values())).isfinite().all() for each in losses)


@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=lambda precision: precision.name)
def test_nothing_stays_of_a_step_with_a_bad_image(precision: Precision) -> None:
    stepper = make_stepper(precision)
    before = {name: value.clone() for name, value in stepper.network.state_dict().items()}
    batch = on_gpu(0, precision)
    batch.pixels[1, 2, 3, 4] = torch.nan
    _, finite, _ = stepper.backward([batch], 0)
    stepper.update(finite)
    assert not finite
    assert all(torch.equal(value, before[name]) for name, value in stepper.network.state_dict().items())
    assert all(entry["momentum_buffer"].eq(0).all() for entry in stepper.optimizer.state.values())


def test_the_scaler_of_gradients_goes_on_where_it_stood() -> None:
    stepper, resumed = make_stepper(FP16), make_stepper(FP16)
    stepper.scaler.update(1024.0)
    resumed.scaler.load_state_dict(stepper.scaler.state_dict())
    assert resumed.scaler.get_scale() == stepper.scaler.get_scale()
    assert all(value.dtype != torch.float16 for value in stepper.network.state_dict().values())
