"""Crop, mirror, rotation and erasing against the same done to one image at a time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from data.augmentation.geometry import crop_and_mirror, erase_, erase_all_at_once, erase_one_by_one, rotate


def random_images(batch: int, height: int = 12, width: int = 8) -> Tensor:
    return torch.randint(
        0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def reference_crop(
    image: Tensor, top: int, left: int, mirrored: bool, pads: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """A slice of the padded image (3, H, W), its columns in reverse if mirrored."""
    above, beside = pads
    padded = np.pad(image.numpy(), ((0, 0), (above, above), (beside, beside)))
    crop = padded[:, top + above : top + above + height, left + beside : left + beside + width]
    return crop[:, :, ::-1] if mirrored else crop


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("pads", "height", "width"),
    [((0, 0), 12, 8), ((3, 3), 12, 8), ((0, 0), 5, 3), ((2, 2), 9, 10), ((1, 1), 14, 10), ((3, 1), 12, 8)],
)
def test_crops_and_mirrors_equal_slices_of_a_padded_image(
    layout: torch.memory_format, dtype: torch.dtype, pads: tuple[int, int], height: int, width: int
) -> None:
    images = random_images(12).to(dtype).contiguous(memory_format=layout)
    rng = torch.Generator().manual_seed(1)
    above, beside = pads
    tops = torch.randint(12 + 2 * above - height + 1, (12,), generator=rng) - above
    lefts = torch.randint(8 + 2 * beside - width + 1, (12,), generator=rng) - beside
    # The corners of what is allowed come up for certain.
    tops[:2], lefts[:2] = torch.tensor([-above, 12 + above - height]), torch.tensor([8 + beside - width, -beside])
    for mirrored in (torch.arange(12) % 2 == 1, None):
        crops = crop_and_mirror(images, tops, lefts, mirrored, pads, height, width)
        assert crops.is_contiguous(memory_format=torch.channels_last)
        for index in range(12):
            turned = mirrored is not None and bool(mirrored[index])
            place = int(tops[index]), int(lefts[index])
            expected = reference_crop(images[index], *place, turned, pads, height, width)
            np.testing.assert_array_equal(crops[index].numpy(), expected)


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


RECTANGLES = ((0, 0, 4, 3), (5, 2, 7, 6), (3, 3, 0, 5), (11, 7, 1, 1))
"""Top, left, height and width: in a corner, up to the opposite one, none, a single pixel."""


@pytest.mark.parametrize("erase", [erase_, erase_all_at_once, erase_one_by_one])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_erasing_replaces_the_rectangle_and_nothing_else(
    erase: Callable[..., None], filled: bool, dtype: torch.dtype
) -> None:
    before = (torch.randn(4, 3, 12, 8) + 5).to(dtype).contiguous(memory_format=torch.channels_last)
    fill = torch.randn(4, 3, 12, 8) if filled else None
    erased = before.clone()
    erase(erased, torch.tensor(RECTANGLES), fill)
    for image, (top, left, height, width) in enumerate(RECTANGLES):
        where = slice(None), slice(top, top + height), slice(left, left + width)
        expected = before[image].clone()
        expected[where] = 0 if fill is None else fill[image][where].to(dtype)
        assert torch.equal(erased[image], expected)
