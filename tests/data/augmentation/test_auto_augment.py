"""AutoAugment's policy and operations against torchvision's, image by image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, _apply_op

from data.augmentation.auto_augment import OPERATIONS, POLICY, apply_policy, equalize, sample_policy

TORCHVISION = {
    name: {"shear_x": "ShearX", "autocontrast": "AutoContrast"}.get(name, name.title()) for name in OPERATIONS
}
NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}


def random_images(batch: int = 6, height: int = 40, width: int = 24) -> Tensor:
    """Smooth ones of several brightnesses, as photos are; laid out by pixels."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 5, 3, generator=rng) * torch.linspace(0.3, 1, batch)[:, None, None, None]
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).mul(255)
    return images.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvision_magnitude(name: str, level: int) -> float:
    magnitudes, _ = AutoAugment()._augmentation_space(10, (40, 24))[TORCHVISION[name]]
    return float(magnitudes[level]) if magnitudes.dim() else 0.0


def test_the_policy_is_the_published_one() -> None:
    expected = AutoAugment()._get_policies(AutoAugmentPolicy.IMAGENET)
    assert len(POLICY) == len(expected) == 25
    for row, sub_policy in zip(POLICY, expected, strict=True):
        for (name, probability, level), (other, share, magnitude) in zip((row[:3], row[3:]), sub_policy, strict=True):
            assert (TORCHVISION[name], probability) == (other, share)
            assert magnitude in (None, level)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", range(10))
def test_an_operation_equals_torchvision_at_every_level(name: str, level: int) -> None:
    images, operation = random_images(), OPERATIONS[name]
    magnitude = operation.magnitude(level)
    signed = AutoAugment()._augmentation_space(10, (40, 24))[TORCHVISION[name]][1]
    assert operation.either_way == signed
    for sign in (1, -1) if signed else (1,):
        of_images = torch.full((6,), operation.lowest + sign * (magnitude - operation.lowest))
        found = operation.change(images, of_images)
        assert found.dtype == torch.uint8
        other = sign * torchvision_magnitude(name, level)
        expected = torch.stack(
            [_apply_op(image, TORCHVISION[name], other, InterpolationMode.BILINEAR, None) for image in images]
        )
        # torchvision cuts fractions off where we round, also in between.
        exact = name in ("posterize", "solarize", "invert", "equalize")
        different = (found.int() - expected.int()).abs()
        assert (different > (0 if exact else 2)).float().mean() < 1e-3, different.max()


def test_equalizing_is_that_of_pil() -> None:
    images = random_images()
    images[0], images[1, 0], images[2] = 7, 0, 0
    images[2, :, 3, 5] = 9  # too few pixels that differ
    for image, found in zip(images, equalize(images, torch.zeros(6)), strict=True):
        expected = ImageOps.equalize(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_channel_of_one_value_has_no_contrast_to_stretch() -> None:
    images = random_images()
    images[0, 1] = 99
    found = OPERATIONS["autocontrast"].change(images, torch.zeros(6))
    assert (found[0, 1] == 99).all()
    assert found[0, 0].min() == found[1, 1].min() == 0
    assert found[0, 0].max() == found[1, 1].max() == 255


def test_each_image_gets_its_two_operations_one_after_the_other() -> None:
    images = random_images()
    steps = [
        ("equalize", 0.0, "posterize", 4.0), ("posterize", 4.0, "equalize", 0.0), (None, 0.0, None, 0.0),
        ("invert", 0.0, None, 0.0), (None, 0.0, "posterize", 6.0), ("posterize", 5.0, "posterize", 4.0),
    ]  # fmt: skip
    numbers = {None: -1, **NUMBERS}
    policy = torch.tensor([[(numbers[a], m), (numbers[b], n)] for a, m, b, n in steps])
    before = images.clone()
    found = apply_policy(images, policy)
    assert torch.equal(images, before)
    for image, result, (first, magnitude, second, other) in zip(images, found, steps, strict=True):
        for name, value in ((first, magnitude), (second, other)):
            if name is not None:
                image = OPERATIONS[name].change(image[None], torch.tensor([value]))[0]
        assert torch.equal(result, image)


def test_sub_policies_are_drawn_with_their_probabilities() -> None:
    batch, share = 40000, 0.5
    numbers, magnitudes = sample_policy(batch, share, generator()).unbind(2)
    for step in range(2):
        rows = [(row[:3], row[3:])[step] for row in POLICY]
        for name, number in NUMBERS.items():
            expected = share * sum(probability for other, probability, _ in rows if other == name) / len(POLICY)
            assert (numbers[:, step] == number).float().mean().item() == pytest.approx(expected, abs=0.01)
    # Both operations are of one sub-policy: contrast is always the second of those that begin with color at level 4.
    contrast = numbers[:, 1] == NUMBERS["contrast"]
    assert set(numbers[contrast, 0].tolist()) == {-1, NUMBERS["color"]}
    assert {round(value, 4) for value in magnitudes[contrast, 1].tolist()} == {0.2, 1.8}
    assert (magnitudes[contrast, 1] > 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    rotated = magnitudes[:, 0][numbers[:, 0] == NUMBERS["rotate"]].abs()
    assert {round(math.degrees(value)) for value in rotated.tolist()} == {10, 27, 30}


def test_probability_1_leaves_out_no_image_and_0_draws_none() -> None:
    everywhere = sample_policy(4000, 1.0, generator())[:, :, 0]
    # 1 - the mean over the sub-policies of the probability that neither operation happens.
    some = 1 - sum((1 - row[1]) * (1 - row[4]) for row in POLICY) / len(POLICY)
    assert (everywhere >= 0).any(1).float().mean().item() == pytest.approx(some, abs=0.03)
    assert (sample_policy(100, 0.0, generator())[:, :, 0] == -1).all()
    images = random_images()
    assert apply_policy(images, sample_policy(6, 0.0, generator())) is images
