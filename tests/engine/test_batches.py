"""What steps see follows from the seed and the step, and from nothing that went before."""

import pytest
import torch

from engine.batches import batches_of_epoch
from engine.trainer import ReidTrainer
from tests.conftest import TINY_PARAMS
from tests.engine.conftest import MakeTrainer

AUGMENTATION = {
    **TINY_PARAMS["data_augmentation"], "noise": 0.1, "hue": 0.1, "grayscale": 0.2,
    "auto_augment": {"probability": 0.5},
}  # fmt: skip


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> ReidTrainer:
    return make_trainer(data_augmentation=AUGMENTATION, accumulate_steps=2)


def test_a_step_has_as_many_batches_as_gradients_are_accumulated_over(trainer: ReidTrainer) -> None:
    batches, labels = trainer.batches, trainer.batches.labels
    expected = batches_of_epoch(trainer.params, labels.tolist(), 0)
    steps = list(batches.steps(0, 0))
    assert [len(step) for step in steps] == [2, 2]
    found = [batch for step in steps for batch in step]
    assert [batch.indices for batch in found] == expected
    assert [batch.number for batch in found] == [0, 1, 2, 3]
    for batch in found:
        assert batch.pixels.shape == (8, 3, 64, 32)
        assert torch.equal(batch.labels, labels[batch.indices])
        assert (batch.taught, batch.extra) == (None, None)
    assert not torch.equal(found[0].pixels, found[1].pixels)


def test_a_later_start_meets_the_same_batches_and_the_same_draws(trainer: ReidTrainer) -> None:
    whole = [(step, torch.rand(3)) for step in trainer.batches.steps(1, 2)]
    torch.rand(100)  # what was drawn before does not matter
    (again,) = trainer.batches.steps(1, 3)
    drawn = torch.rand(3)
    for batch, expected in zip(again, whole[1][0], strict=True):
        assert torch.equal(batch.pixels, expected.pixels)
        assert torch.equal(batch.labels, expected.labels)
    assert torch.equal(drawn, whole[1][1])
    assert not torch.equal(drawn, whole[0][1])


def test_pixels_come_in_the_format_that_the_network_computes_in(make_trainer: MakeTrainer) -> None:
    pixels = [
        next(make_trainer(name, data_augmentation=AUGMENTATION, precision=name).batches.steps(0, 0))[0].pixels
        for name in ("fp32", "bf16")
    ]
    assert pixels[1].dtype == torch.bfloat16
    assert pixels[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels[1], pixels[0].bfloat16())
