"""Differentiable changes against the same done to one pixel at a time, their draws and their gradients."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from data.augmentation.differentiable import Changes, DifferentiableChange, change, draw_changes

ALL: tuple[DifferentiableChange, ...] = ("colour", "translation", "cutout")
CHOICES = [(), ("colour",), ("translation",), ("cutout",), ("translation", "cutout"), ALL]
HEIGHT, WIDTH = 17, 10
"""An odd and an even side; shifts of up to 2 and 1, a rectangle of 8 x 5."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_images(batch: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return 2 * torch.rand(batch, 3, height, width, generator=generator(), dtype=torch.float64) - 1


def coloured(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    """An image (3, H, W) with its brightness, then its saturation, then its contrast changed, as defined."""
    image = image.clone()
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            pixel = [value + brightness for value in image[:, row, column].tolist()]
            grey = sum(pixel) / 3
            changed = [grey + saturation * (value - grey) for value in pixel]
            image[:, row, column] = torch.tensor(changed, dtype=image.dtype)
    mean = sum(image.flatten().tolist()) / image.numel()
    return mean + contrast * (image - mean)


def reference(image: Tensor, place: int, changes: Changes) -> Tensor:
    """Image number `place` (3, H, W), changed pixel by pixel."""
    height, width = image.shape[1:]
    if changes.colours is not None:
        image = coloured(image, *changes.colours[place].tolist())
    if changes.shifts is not None:
        down, right = changes.shifts[place].tolist()
        moved = torch.zeros_like(image)
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    moved[:, row, column] = image[:, row - down, column - right]
        image = moved
    if changes.rectangles is not None:
        top, left, tall, wide = changes.rectangles[place].tolist()
        image = image.clone()
        for row in range(height):
            for column in range(width):
                if top <= row < top + tall and left <= column < left + wide:
                    image[:, row, column] = 0
    return image


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chosen", CHOICES)
def test_equals_the_same_done_pixel_by_pixel(
    chosen: Sequence[DifferentiableChange], layout: torch.memory_format
) -> None:
    images = draw_images(8).contiguous(memory_format=layout)
    changes = draw_changes(chosen, 8, HEIGHT, WIDTH, generator(1))
    changed = change(images, changes)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    for place, image in enumerate(images):
        torch.testing.assert_close(changed[place], reference(image, place, changes), rtol=0, atol=1e-12)
    if chosen:
        assert not torch.equal(changed, images)


@pytest.mark.parametrize(("down", "right"), [(4, 1), (-4, -1), (4, -1), (0, 0)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_shifts_of_the_largest_size_bring_in_nothing_of_other_images(place: int, down: int, right: int) -> None:
    images = 1 + draw_images(3, 32, 8).abs()
    shifts = torch.zeros(3, 2, dtype=torch.int64)
    shifts[place] = torch.tensor([down, right])
    changes = Changes(None, shifts, None)
    for index, changed in enumerate(change(images, changes)):
        assert torch.equal(changed, reference(images[index], index, changes))


def test_factors_of_one_change_no_colour_and_without_saturation_all_is_grey() -> None:
    images = draw_images(2)
    changed = change(images, Changes(torch.tensor([[0.0, 1.0, 1.0], [0.25, 0.0, 1.0]]), None, None))
    torch.testing.assert_close(changed[0], images[0])
    torch.testing.assert_close(changed[1], images[1].mean(0).add(0.25).expand(3, -1, -1))


def test_an_image_of_less_than_eight_pixels_is_not_shifted() -> None:
    images = draw_images(4, 7, 5)
    assert torch.equal(change(images, draw_changes(["translation"], 4, 7, 5, generator())), images)


def test_with_every_change_off_the_images_are_the_same_ones() -> None:
    images = draw_images(2)
    assert change(images, draw_changes((), 2, HEIGHT, WIDTH, generator())) is images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_images_keep_their_type(dtype: torch.dtype) -> None:
    changes = draw_changes(ALL, 4, HEIGHT, WIDTH, generator())
    images = draw_images(4).to(dtype)
    changed = change(images, changes)
    assert changed.dtype == dtype
    expected = change(images.double(), changes)
    torch.testing.assert_close(changed.double(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("chosen", CHOICES[1:])
def test_gradients_once_and_twice(chosen: Sequence[DifferentiableChange]) -> None:
    images = draw_images(2, 9, 8).requires_grad_()
    changes = draw_changes(chosen, 2, 9, 8, generator(3))
    assert torch.autograd.gradcheck(lambda pixels: change(pixels, changes), [images])
    assert torch.autograd.gradgradcheck(lambda pixels: change(pixels, changes), [images], fast_mode=True)


def test_a_gradient_penalty_reaches_through_the_changes() -> None:
    changes = draw_changes(ALL, 3, 9, 8, generator(3))

    def squared_norms(images: Tensor) -> Tensor:
        scores = change(images, changes).pow(3).sum()
        (gradients,) = torch.autograd.grad(scores, images, create_graph=True)
        return gradients.square().sum((1, 2, 3))

    assert torch.autograd.gradcheck(squared_norms, [draw_images(3, 9, 8).requires_grad_()], fast_mode=True)


def test_what_is_off_is_not_drawn() -> None:
    assert draw_changes((), 5, HEIGHT, WIDTH, generator()) == (None, None, None)
    for place, name in enumerate(ALL):
        changes = draw_changes([name], 5, HEIGHT, WIDTH, generator())
        assert [numbers is not None for numbers in changes] == [other == place for other in range(3)]


def test_draws_follow_the_generator_and_not_the_order_of_names() -> None:
    first, again, other = (draw_changes(ALL, 16, HEIGHT, WIDTH, generator(seed)) for seed in (1, 1, 2))
    turned = draw_changes(ALL[::-1], 16, HEIGHT, WIDTH, generator(1))
    for one, same, back, different in zip(first, again, turned, other, strict=True):
        assert torch.equal(cast(Tensor, one), cast(Tensor, same))
        assert torch.equal(cast(Tensor, one), cast(Tensor, back))
        assert not torch.equal(cast(Tensor, one), cast(Tensor, different))


def test_colours_are_uniform_in_their_ranges() -> None:
    colours = draw_changes(ALL, 4000, HEIGHT, WIDTH, generator()).colours
    assert colours is not None
    assert colours.shape == (4000, 3)
    for numbers, low, high in zip(colours.unbind(1), (-0.5, 0.0, 0.5), (0.5, 2.0, 1.5), strict=True):
        assert low <= numbers.min() < numbers.max() <= high
        quantiles = torch.quantile(numbers, torch.tensor([0.1, 0.5, 0.9]))
        expected = [low + share * (high - low) for share in (0.1, 0.5, 0.9)]
        assert quantiles.tolist() == pytest.approx(expected, abs=0.03 * (high - low))
    assert (torch.corrcoef(colours.T) - torch.eye(3)).abs().max() < 0.05


def is_even(places: Tensor, first: int, number: int) -> bool:
    """Whether places are `first` and the following ones, of this number, each about equally often."""
    counts = torch.bincount(places - first, minlength=number)
    return len(counts) == number and torch.allclose(counts.float(), torch.tensor(len(places) / number), rtol=0.15)


def test_shifts_are_even_up_to_an_eighth_of_the_size() -> None:
    shifts = draw_changes(ALL, 9000, 32, 20, generator()).shifts
    assert shifts is not None
    assert shifts.dtype == torch.int64
    assert is_even(shifts[:, 0], -4, 9)
    assert is_even(shifts[:, 1], -2, 5)
    assert torch.corrcoef(shifts.T.float())[0, 1].abs() < 0.05


@pytest.mark.parametrize(("height", "width"), [(16, 9), (10, 7)])
def test_the_centre_of_what_is_cut_out_is_even_over_the_image(height: int, width: int) -> None:
    rectangles = draw_changes(ALL, 9000, height, width, generator()).rectangles
    assert rectangles is not None
    assert rectangles.dtype == torch.int64
    for side, size in enumerate((height, width)):
        starts, lengths = rectangles[:, side], rectangles[:, 2 + side]
        assert (lengths == size // 2).all()
        ends = starts + lengths
        # An odd number of pixels has its centre in one of the image's, an even one on one of their size + 1 borders.
        number = size if size // 2 % 2 else size + 1
        assert is_even(starts, -(size // 4), number)
        # From one edge to the other, and as far beyond either.
        assert starts.min() == size - ends.max()
