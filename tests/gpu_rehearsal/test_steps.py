"""Whole steps of training on the fake GPU, in every setting: deterministic, without waiting for it."""

from contextlib import nullcontext

import pytest
import torch

from tests.gpu_rehearsal.fake_gpu import CPU, FakeGpu
from tests.gpu_rehearsal.operations import SLOW_IF_DETERMINISTIC
from tests.gpu_rehearsal.trainings import SETTINGS, make_trainer, train
from utils.precision import FP16, FP32, Precision


# Float16's gradients are scaled by powers of 2, which change no digit.
@pytest.mark.parametrize(("setting", "precision"), [*((name, FP32) for name in SETTINGS), ("every triplet", FP16)])
def test_steps_wait_for_nothing_and_are_those_of_the_cpu(setting: str, precision: Precision, gpu: FakeGpu) -> None:
    mine, other = make_trainer(setting, gpu.device, precision), make_trainer(setting, CPU)
    torch.use_deterministic_algorithms(True)
    # As documented, an optimizer without a fused version waits.
    may_wait = mine.params.optimizer == "rmsprop"
    for found, expected in zip(train(mine, 2, nullcontext if may_wait else gpu.no_waits), train(other, 2), strict=True):
        for step, same in zip(found, expected, strict=True):
            assert step.is_finite
            assert step.losses == pytest.approx(same.losses, rel=1e-3, abs=1e-4)
            assert step.silent == same.silent
    state = {**other.network.state_dict(prefix="trained."), **other.stepper.evaluated.state_dict()}
    for name, value in {**mine.network.state_dict(prefix="trained."), **mine.stepper.evaluated.state_dict()}.items():
        torch.testing.assert_close(value.cpu(), state[name], rtol=1e-2, atol=1e-3)
    assert gpu.operations & SLOW_IF_DETERMINISTIC == set()
