"""What steps see follows from the seed and the step, and from nothing that went before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.params import Params
from engine.batches import train_batches
from engine.build import Training, build_training, read_training_data
from tests.conftest import TINY_PARAMS
from utils.precision import BF16

CPU = torch.device("cpu")


@pytest.fixture
def training(tmp_path: Path, make_market: Callable[[Path], Path]) -> Training:
    augmentation = {**TINY_PARAMS["data_augmentation"], "noise": 0.1, "hue": 0.1}
    raw = {
        **TINY_PARAMS,
        "batches_dir": str(make_market(tmp_path / "market")),
        "evaluation_params": {},
        "data_augmentation": augmentation,
        "accumulate_steps": 2,
    }
    params = Params.model_validate_json(json.dumps(raw))
    return build_training(params, read_training_data(params), CPU)


def test_a_step_has_as_many_batches_as_are_averaged_over(training: Training) -> None:
    steps = list(train_batches(training, training.batches(0)))
    assert [len(step) for step in steps] == [2, 2]
    for (first, second), indices in zip(steps, zip(*[iter(training.batches(0))] * 2, strict=True), strict=True):
        assert first.pixels.shape == (8, 3, 64, 32)
        assert [first.labels.tolist(), second.labels.tolist()] == [training.labels[each].tolist() for each in indices]
        assert not torch.equal(first.pixels, second.pixels)
        assert (first.taught, first.generated, first.real) == (None, None, None)


def test_a_later_start_meets_the_same_batches_and_the_same_chance(training: Training) -> None:
    whole = []
    for step in train_batches(training, training.batches(0)):
        whole.append((step, torch.rand(3)))
    torch.rand(100)  # what was drawn before does not matter
    training.step = 1
    (again,) = train_batches(training, training.batches(0)[2:])
    drawn = torch.rand(3)
    for batch, expected in zip(again, whole[1][0], strict=True):
        assert torch.equal(batch.pixels, expected.pixels)
        assert torch.equal(batch.labels, expected.labels)
    assert torch.equal(drawn, whole[1][1])
    assert not torch.equal(drawn, whole[0][1])


def test_pixels_come_in_the_format_that_the_network_computes_in(training: Training) -> None:
    expected = next(train_batches(training, training.batches(0)))[0].pixels
    training.stepper.precision = BF16
    pixels = next(train_batches(training, training.batches(0)))[0].pixels
    assert pixels.dtype == torch.bfloat16
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, expected.bfloat16())
