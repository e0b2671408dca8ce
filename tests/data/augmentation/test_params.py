"""What is drawn, against the per-image definitions, and that a part of a batch is drawn as in the whole."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from data.augmentation.params import sample, sample_rectangles
from data.options import AutoAugment, DataAugmentation, GrayscalePatch, RandomErasing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_off_is_not_drawn() -> None:
    params = sample(DataAugmentation(mirror=False), 5, 12, 8, 12, 8, generator())
    assert torch.equal(params.tops, torch.zeros(5, dtype=torch.int64))
    assert torch.equal(params.lefts, torch.zeros(5, dtype=torch.int64))
    assert params[2:] == (None,) * 10


def test_the_padding_above_may_differ_from_that_beside() -> None:
    params = sample(DataAugmentation(pad=(3, 1)), 9000, 12, 8, 12, 8, generator())
    assert {*params.tops.tolist()} == {*range(-3, 4)}
    assert {*params.lefts.tolist()} == {*range(-1, 2)}


def test_crops_are_uniform_over_all_that_fit_the_padded_image() -> None:
    params = sample(DataAugmentation(pad=2), 9000, 14, 8, 12, 8, generator())
    # torchvision's RandomCrop: each of H + 2 pad - height + 1 places with the same probability.
    for places, first, number in ((params.tops, -2, 7), (params.lefts, -2, 5)):
        counts = torch.bincount(places - first, minlength=number)
        assert len(counts) == number
        assert torch.allclose(counts.float(), torch.tensor(9000 / number), rtol=0.15)
    assert torch.corrcoef(torch.stack((params.tops, params.lefts)).float())[0, 1].abs() < 0.05
    assert params.mirrored is not None
    assert params.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("name", "drawn", "strength", "low", "high"),
    [
        ("brightness", "brightness", 0.2, 0.8, 1.2),
        ("contrast", "contrast", 0.4, 0.6, 1.4),
        ("saturation", "saturation", 0.3, 0.7, 1.3),
        ("hue", "hue", 0.1, -0.1, 0.1),
        ("rotation", "angles", 10.0, -math.radians(10), math.radians(10)),
    ],
)
def test_strengths_are_uniform_around_no_change(
    name: str, drawn: str, strength: float, low: float, high: float
) -> None:
    options = DataAugmentation.model_validate({name: strength})
    numbers = getattr(sample(options, 4000, 12, 8, 12, 8, generator()), drawn)
    assert numbers.shape == (4000,)
    assert numbers.min() >= low
    assert numbers.max() <= high
    quantiles = torch.quantile(numbers, torch.tensor([0.1, 0.5, 0.9]))
    expected = [low + share * (high - low) for share in (0.1, 0.5, 0.9)]
    assert quantiles.tolist() == pytest.approx(expected, abs=0.03 * (high - low))


def test_draws_follow_the_generator() -> None:
    options = DataAugmentation(
        pad=3, brightness=0.2, random_erasing=RandomErasing(probability=1.0, fill="colour"),
        grayscale_patch=GrayscalePatch(probability=1.0), auto_augment=AutoAugment(probability=1.0),
    )  # fmt: skip
    first, again, other = (sample(options, 16, 12, 8, 12, 8, generator(seed)) for seed in (1, 1, 2))
    assert sum(numbers is not None for numbers in first) == 8
    for one, same, different in zip(first, again, other, strict=True):
        if one is not None and same is not None and different is not None:
            assert torch.equal(one, same)
            assert not torch.equal(one, different)


def test_an_option_that_came_later_leaves_the_numbers_of_the_others_as_they_were() -> None:
    before = {"pad": 3, "brightness": 0.2, "hue": 0.1, "random_erasing": {"probability": 0.5}}
    later = {"grayscale": 0.2, "grayscale_patch": {"probability": 0.4}, "auto_augment": {"probability": 0.5}}
    first, second = (
        sample(DataAugmentation.model_validate(content), 16, 12, 8, 12, 8, generator())
        for content in (before, {**before, **later})
    )
    for name, numbers in first._asdict().items():
        assert numbers is None or torch.equal(numbers, getattr(second, name)), name


def test_the_colours_of_some_images_are_left_alone() -> None:
    jitter = {"brightness": 0.2, "contrast": 0.2, "hue": 0.1}
    always, sometimes = (
        sample(
            DataAugmentation.model_validate({**jitter, "jitter_probability": share}), 4000, 12, 8, 12, 8, generator()
        )
        for share in (1.0, 0.3)
    )
    jittered = sometimes.brightness != 1
    assert jittered.float().mean().item() == pytest.approx(0.3, abs=0.03)
    for name, unchanged in (("brightness", 1.0), ("contrast", 1.0), ("hue", 0.0)):
        numbers = getattr(sometimes, name)
        assert torch.equal(numbers[jittered], getattr(always, name)[jittered])
        assert (numbers[~jittered] == unchanged).all()
    assert sometimes.saturation is None


@pytest.mark.parametrize("whole", [0.0, 0.25])
@pytest.mark.parametrize("patch", [0.0, 0.4])
def test_images_and_patches_lose_their_colour_with_their_probabilities(whole: float, patch: float) -> None:
    options = DataAugmentation(grayscale=whole, grayscale_patch=GrayscalePatch(probability=patch))
    rectangles = sample(options, 4000, 32, 16, 32, 16, generator()).grey_rectangles
    if not whole and not patch:
        assert rectangles is None
        return
    assert rectangles is not None
    whole_images = (rectangles == torch.tensor((0, 0, 32, 16))).all(1)
    assert whole_images.float().mean().item() == pytest.approx(whole, abs=0.03)
    areas = rectangles[:, 2] * rectangles[:, 3]
    patches = (areas > 0) & ~whole_images
    # Of the images that are not grey as a whole.
    assert patches.float().mean().item() == pytest.approx(patch * (1 - whole), abs=0.03)
    if patch:
        # Rounded to whole pixels.
        assert areas[patches].max() <= 0.45 * 32 * 16
        assert areas[patches].min() >= 0.01 * 32 * 16


def reference_rectangle(rng: np.random.Generator, options: RandomErasing, height: int, width: int) -> tuple[int, int]:
    """Height and width of an erased rectangle, by Zhong et al.'s loop; (0, 0) if none."""
    if rng.uniform() >= options.probability:
        return 0, 0
    for _ in range(100):
        area = height * width * rng.uniform(options.min_area, options.max_area)
        aspect = rng.uniform(options.min_aspect, 1 / options.min_aspect)
        erased_height, erased_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if erased_height < height and erased_width < width:
            return erased_height, erased_width
    return 0, 0


def inside(rectangles: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W) bool, by one slice per image."""
    mask = torch.zeros(len(rectangles), height, width, dtype=torch.bool)
    for image, (top, left, tall, wide) in zip(mask, rectangles.tolist(), strict=True):
        image[top : top + tall, left : left + wide] = True
    return mask


def test_erased_rectangles_follow_the_paper() -> None:
    options = RandomErasing(probability=0.6)
    height, width, count = 32, 16, 4000
    rectangles = sample_rectangles(count, height, width, options, generator())
    assert rectangles.dtype == torch.int64
    tops, lefts, heights, widths = rectangles.unbind(1)
    assert (rectangles >= 0).all()
    assert (tops + heights <= height).all()
    assert (lefts + widths <= width).all()
    rng = np.random.default_rng(0)
    expected = np.array([reference_rectangle(rng, options, height, width) for _ in range(count)])
    hit, expected_hit = heights > 0, expected[:, 0] > 0
    assert hit.double().mean().item() == pytest.approx(expected_hit.mean(), abs=0.03)
    for side, sizes in enumerate((heights, widths)):
        drawn, wanted = sizes[hit].numpy(), expected[expected_hit, side]
        assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(wanted, [0.1, 0.5, 0.9]), rel=0.1)
    # Among the rectangles of one size the first and the last place come up as often as those between.
    share = inside(rectangles, height, width).double().mean(0)
    assert share.min() > 0
    assert share[height // 2, width // 2] > share[0, 0]
    torch.testing.assert_close(share, share.flip(0, 1), atol=0.03, rtol=0)


def test_an_image_that_no_rectangle_fits_is_left_alone() -> None:
    options = RandomErasing(probability=1.0, min_area=1.0, max_area=1.0, min_aspect=1.0)
    assert (sample_rectangles(8, 16, 16, options, generator())[:, 2] == 0).all()
