"""Each change of colour against its definition, pixel by pixel."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from data.augmentation.colours import scale_brightness, scale_contrast, scale_saturation, turn_hue


def random_pixels() -> Tensor:
    return torch.randint(0, 256, (4, 3, 12, 8), generator=torch.Generator().manual_seed(0)).float() / 255


def grey_of(pixel: Tensor) -> float:
    return 0.299 * pixel[0].item() + 0.587 * pixel[1].item() + 0.114 * pixel[2].item()


def test_colour_steps_equal_their_definitions_pixel_by_pixel() -> None:
    pixels = random_pixels()
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
    pixels = random_pixels()
    pixels[0, :, 0, 0] = 0.4  # a grey pixel has no hue to turn
    turns = torch.tensor([0.1, -0.4, 0.0, 0.5])
    turned = turn_hue(pixels, turns)
    for image, turn in enumerate(turns.tolist()):
        for row, column in ((0, 0), (4, 4), (11, 7)):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixels[image, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert turned[image, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
