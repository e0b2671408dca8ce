"""Each batched step against the per-image definition, and the distribution of what is drawn."""

import colorsys
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from data.augment import (
    augment,
    crop_and_mirror,
    denormalise,
    draw_rectangles,
    normalise,
    rotate,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    turn_hue,
)
from data.options import DataAugmentation, RandomErasing

CPU = torch.device("cpu")
PLAIN = DataAugmentation(mirror=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(batch: int = 4, height: int = 12, width: int = 8) -> Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator(), dtype=torch.uint8)


def test_without_options_only_the_normalisation_is_left() -> None:
    images = random_images()
    torch.testing.assert_close(augment(images, PLAIN, 12, 8, generator()), normalise(images, "imagenet"))


@pytest.mark.parametrize("normalisation", ["imagenet", "half"])
def test_normalisation_and_its_inverse(normalisation: str) -> None:
    images = random_images()
    pixels = normalise(images, normalisation)  # pyright: ignore[reportArgumentType]
    mean, deviation = {"imagenet": (0.456, 0.224), "half": (0.5, 0.5)}[normalisation]
    expected = (images[1, 1, 3, 2].item() / 255 - mean) / deviation
    assert pixels[1, 1, 3, 2].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(denormalise(pixels, normalisation), images)  # pyright: ignore[reportArgumentType]


def test_crops_and_mirrors_equal_slices_of_a_padded_image() -> None:
    images, pad = random_images(6), 3
    tops, lefts = torch.tensor([-3, 0, 3, -1, 2, 1]), torch.tensor([3, -3, 0, 1, -2, 0])
    mirrored = torch.tensor([False, True, False, True, False, True])
    crops = crop_and_mirror(images, tops, lefts, mirrored, 12, 8)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    for index in range(6):
        top, left = int(tops[index]) + pad, int(lefts[index]) + pad
        expected = padded[index, :, top : top + 12, left : left + 8]
        expected = expected[:, :, ::-1] if mirrored[index] else expected
        np.testing.assert_array_equal(crops[index].numpy(), expected)


@pytest.mark.parametrize("name", ["mirror", "hue", "rotation", "noise"])
def test_the_result_is_laid_out_channels_last(name: str) -> None:
    options = DataAugmentation.model_validate({name: True if name == "mirror" else 0.3})
    pixels = augment(random_images(), options, 12, 8, generator())
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_crops_and_mirrors_are_drawn_uniformly() -> None:
    # One bright pixel in the middle tells where the crop began and whether it was mirrored.
    images = torch.zeros(6000, 3, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 1] = 255
    options = DataAugmentation(mirror=True, pad=1, normalisation="half")
    pixels = augment(images, options, 5, 5, generator())
    places = pixels[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=25).view(5, 5)
    # Rows 1..3 by the crop; columns 0..2 by the crop, 2..4 by crop and mirror.
    expected = 6000 / 3 * torch.tensor([1, 1, 2, 1, 1]) / 6
    for row in (1, 2, 3):
        assert torch.allclose(counts[row].float(), expected, rtol=0.2)
    assert counts[0].sum() == counts[4].sum() == 0


def grey_of(pixel: Tensor) -> float:
    return 0.299 * pixel[0].item() + 0.587 * pixel[1].item() + 0.114 * pixel[2].item()


def test_colour_steps_equal_their_definitions_pixel_by_pixel() -> None:
    pixels = random_images().float() / 255
    factors = torch.tensor([0.5, 1.0, 1.5, 0.0])
    brightness = scale_brightness(pixels, factors)
    contrast, saturation = scale_contrast(pixels, factors), scale_saturation(pixels, factors)
    for image, factor in enumerate(factors.tolist()):
        mean_grey = np.mean([[grey_of(pixels[image, :, row, column]) for column in range(8)] for row in range(12)])
        for row, column in ((0, 0), (5, 3), (11, 7)):
            pixel = pixels[image, :, row, column]
            grey = grey_of(pixel)
            for channel in range(3):
                value, where = pixel[channel].item(), (image, channel, row, column)
                assert brightness[where].item() == pytest.approx(min(1, factor * value), abs=1e-5)
                expected = factor * value + (1 - factor) * float(mean_grey)
                assert contrast[where].item() == pytest.approx(min(1, max(0, expected)), abs=1e-5)
                expected = factor * value + (1 - factor) * grey
                assert saturation[where].item() == pytest.approx(min(1, max(0, expected)), abs=1e-5)


def test_turning_the_hue_equals_python_colorsys() -> None:
    pixels = random_images().float() / 255
    pixels[0, :, 0, 0] = 0.4  # a grey pixel has no hue to turn
    turns = torch.tensor([0.1, -0.4, 0.0, 0.5])
    turned = turn_hue(pixels, turns)
    for image, turn in enumerate(turns.tolist()):
        for row, column in ((0, 0), (4, 4), (11, 7)):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixels[image, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert turned[image, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 5)])
def test_rotation_moves_a_pixel_by_its_angle(height: int, width: int) -> None:
    pixels = torch.zeros(2, 3, height, width)
    pixels[:, :, 4, width // 2 + 2] = 1.0
    turned = rotate(pixels, torch.tensor([0.0, math.pi / 2]))
    torch.testing.assert_close(turned[0], pixels[0], atol=1e-5, rtol=0)
    # A quarter turn brings what was two to the right of the centre straight above or below it.
    assert max(turned[1, 0, 2, width // 2].item(), turned[1, 0, 6, width // 2].item()) == pytest.approx(1, abs=1e-4)
    assert turned[1, 0].sum().item() == pytest.approx(1, abs=1e-3)


def test_rotation_fills_corners_with_zero() -> None:
    turned = rotate(torch.ones(1, 3, 20, 20), torch.tensor([math.pi / 4]))
    assert turned[0, :, 0, 0].tolist() == [0, 0, 0]
    assert turned[0, :, 10, 10].tolist() == pytest.approx([1, 1, 1])


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


def test_erased_rectangles_follow_the_paper() -> None:
    options = RandomErasing(probability=0.6)
    height, width, count = 32, 16, 4000
    inside = draw_rectangles(count, height, width, options, generator(), CPU)
    rows, columns = inside.any(2), inside.any(1)
    assert torch.equal(inside, rows[:, :, None] & columns[:, None, :])
    sizes = torch.stack([rows.sum(1), columns.sum(1)], dim=1).double()
    for edges in (rows, columns):  # one run of pixels without a gap
        assert (edges.int().diff(dim=1).abs().sum(1) <= 2).all()
    rng = np.random.default_rng(0)
    expected = np.array([reference_rectangle(rng, options, height, width) for _ in range(count)])
    hit, expected_hit = sizes[:, 0] > 0, expected[:, 0] > 0
    assert hit.double().mean().item() == pytest.approx(expected_hit.mean(), abs=0.03)
    for side in range(2):
        drawn, wanted = sizes[hit, side].numpy(), expected[expected_hit, side]
        assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(wanted, [0.1, 0.5, 0.9]), rel=0.1)
    # Every pixel can be hit, the middle most often.
    share = inside.double().mean(0)
    assert share.min() > 0
    assert share[height // 2, width // 2] > share[0, 0]


@pytest.mark.parametrize("fill", ["mean", "random"])
def test_erased_pixels_get_their_fill_and_others_stay(fill: str) -> None:
    images = random_images(64)
    erasing = RandomErasing(probability=1.0, fill=fill)  # pyright: ignore[reportArgumentType]
    pixels = augment(images, DataAugmentation(mirror=False, random_erasing=erasing), 12, 8, generator())
    changed = (pixels != normalise(images, "imagenet")).all(1)
    assert changed.flatten(1).any(1).all()
    values = pixels.permute(0, 2, 3, 1)[changed]
    if fill == "mean":
        assert (values == 0).all()
    else:
        assert values.mean().item() == pytest.approx(0, abs=0.05)
        assert values.std().item() == pytest.approx(1, abs=0.05)


def test_noise_has_the_deviation_asked_for() -> None:
    grey = torch.full((32, 3, 12, 8), 128, dtype=torch.uint8)
    options = DataAugmentation(mirror=False, noise=0.1, normalisation="half")
    difference = augment(grey, options, 12, 8, generator()) / 2 - normalise(grey, "half") / 2
    assert difference.std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "rotation", "noise", "pad"])
def test_every_option_changes_the_images_and_follows_the_generator(name: str) -> None:
    images = random_images()
    value = {"rotation": 20.0, "pad": 2}.get(name, 0.3)
    options = DataAugmentation.model_validate({"mirror": False, name: value})
    first = augment(images, options, 12, 8, generator(1))
    assert first.shape == (4, 3, 12, 8)
    assert not torch.allclose(first, augment(images, PLAIN, 12, 8, generator(1)))
    assert torch.equal(first, augment(images, options, 12, 8, generator(1)))
    assert not torch.equal(first, augment(images, options, 12, 8, generator(2)))


def test_images_draw_independently() -> None:
    images = random_images(1).expand(32, -1, -1, -1)
    pixels = augment(images, DataAugmentation(brightness=0.5), 12, 8, generator())
    assert len(pixels.flatten(1).unique(dim=0)) == 32


def test_a_larger_image_is_cropped() -> None:
    images = random_images(200, 16, 10)
    pixels = augment(images, PLAIN, 12, 8, generator())
    assert pixels.shape == (200, 3, 12, 8)
    first_rows = (normalise(images, "imagenet")[:, 0, :, None, 0] - pixels[:, 0, 0, 0, None, None]).abs()
    assert (first_rows[:, 0].amin(1) < 1e-6).float().mean() < 0.9  # not always the left upper corner
