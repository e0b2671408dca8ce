"""Whole batches against one image at a time, and what must not depend on how a batch is cut up."""

import colorsys
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

import data.augmentation.apply
from data.augmentation.apply import augment
from data.augmentation.auto_augment import apply_policy
from data.augmentation.normalisation import denormalise, normalise
from data.augmentation.params import AugmentParams, sample
from data.options import AutoAugment, DataAugmentation, GrayscalePatch, RandomErasing

PLAIN = DataAugmentation(mirror=False, normalisation="imagenet")
ALL_DRAWN = DataAugmentation(
    pad=3, brightness=0.4, contrast=0.3, saturation=0.3, hue=0.2, rotation=20.0,
    random_erasing=RandomErasing(probability=0.7, fill="colour"), jitter_probability=0.8,
    grayscale=0.1, grayscale_patch=GrayscalePatch(probability=0.7), normalisation="imagenet",
    auto_augment=AutoAugment(probability=0.8),
)  # fmt: skip
"""Every option but noise, also of erased pixels, which changes pixels by numbers of their own."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(batch: int = 4, height: int = 12, width: int = 8) -> Tensor:
    """As a store gives them: laid out by pixels."""
    shape = batch, height, width, 3
    return torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8).permute(0, 3, 1, 2)


def sample_and_augment(images: Tensor, options: DataAugmentation, seed: int = 0) -> Tensor:
    """AugmentParams by one seed and, for noise and fill, by the next."""
    params = sample(options, len(images), images.shape[2], images.shape[3], 12, 8, generator(seed))
    return augment(images, params, options, 12, 8, generator(seed + 1))


def reference_pixel(
    pixel: np.ndarray, params: AugmentParams, mean_grey: float, brightness_only: bool = False
) -> np.ndarray:
    """One RGB pixel in 0..1 through the changes of colour drawn for one image (B = 1), by their definitions."""
    factors = {name: float(getattr(params, name)) for name in ("brightness", "contrast", "saturation", "hue")}
    pixel = np.clip(pixel * factors["brightness"], 0, 1)
    if brightness_only:
        return pixel
    pixel = np.clip(factors["contrast"] * pixel + (1 - factors["contrast"]) * mean_grey, 0, 1)
    grey = pixel @ (0.299, 0.587, 0.114)
    pixel = np.clip(factors["saturation"] * pixel + (1 - factors["saturation"]) * grey, 0, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
    return np.array(colorsys.hsv_to_rgb((hue + factors["hue"]) % 1, saturation, value))


def reference_grey(crop: np.ndarray, params: AugmentParams) -> np.ndarray:
    """An image (H, W, 3) uint8 without the colours of its rectangle (B = 1)."""
    assert params.grey_rectangles is not None
    top, left, height, width = params.grey_rectangles[0].tolist()
    crop = crop.copy()
    for row in range(top, top + height):
        for column in range(left, left + width):
            crop[row, column] = round(float(crop[row, column] @ (0.299, 0.587, 0.114)))
    return crop


def reference(image: np.ndarray, params: AugmentParams, options: DataAugmentation) -> np.ndarray:
    """One image (H, W, 3) uint8 -> (12, 8, 3), step by step with Python loops; without AutoAugment and rotation."""
    assert params.mirrored is not None
    assert params.rectangles is not None
    padded = np.pad(image, (*((pad, pad) for pad in options.pads), (0, 0)))
    top, left = int(params.tops) + options.pads[0], int(params.lefts) + options.pads[1]
    crop = padded[top : top + 12, left : left + 8]
    crop = crop[:, ::-1] if bool(params.mirrored) else crop
    crop = reference_grey(crop, params) / 255
    bright = [reference_pixel(pixel, params, 0.0, brightness_only=True) for pixel in crop.reshape(-1, 3)]
    mean_grey = float(np.mean(np.array(bright) @ (0.299, 0.587, 0.114)))
    changed = np.array([reference_pixel(pixel, params, mean_grey) for pixel in crop.reshape(-1, 3)]).reshape(12, 8, 3)
    normalised = (changed - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    top, left, height, width = params.rectangles[0].tolist()
    assert params.fill_colours is not None
    normalised[top : top + height, left : left + width] = params.fill_colours[0]
    return normalised


def test_a_batch_equals_its_images_changed_one_by_one() -> None:
    images, options = random_images(24, 14, 9), ALL_DRAWN.model_copy(update={"rotation": 0.0})
    params = sample(options, 24, 14, 9, 12, 8, generator())
    pixels = augment(images, params, options, 12, 8, generator())
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        own = params.part(slice(index, index + 1))
        assert own.policy is not None
        image = apply_policy(torch.tensor(image).permute(2, 0, 1)[None], own.policy)[0].permute(1, 2, 0).numpy()
        expected = reference(image, own, options)
        np.testing.assert_allclose(pixels[index].permute(1, 2, 0).numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("sizes", [(4, 4), (1, 7), (3, 2, 3)])
def test_processes_that_share_a_batch_see_together_what_one_sees(sizes: tuple[int, ...]) -> None:
    images = random_images(8, 14, 9)
    whole = sample_and_augment(images, ALL_DRAWN)
    start, parts = 0, []
    for rank, size in enumerate(sizes):
        params = sample(ALL_DRAWN, 8, 14, 9, 12, 8, generator())  # every process params for all images
        part = slice(start, start + size)
        parts.append(augment(images[part], params.part(part), ALL_DRAWN, 12, 8, generator(100 + rank)))
        start += size
    assert torch.equal(torch.cat(parts), whole)


def test_an_image_alone_becomes_what_it_becomes_among_others() -> None:
    # Large enough for torch to share the work on a lone image among threads, where it can.
    images = random_images(3, 256, 192)
    params = sample(ALL_DRAWN, 3, 256, 192, 256, 192, generator())
    whole = augment(images, params, ALL_DRAWN, 256, 192, generator())
    for index in range(3):
        part = slice(index, index + 1)
        assert torch.equal(augment(images[part], params.part(part), ALL_DRAWN, 256, 192, generator()), whole[part])


def test_the_pieces_that_a_cpu_works_in_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(7, 14, 9)
    whole = sample_and_augment(images, ALL_DRAWN)
    for pixels in (1, 12 * 8 * 3):  # one image at a time, and three
        monkeypatch.setattr(data.augmentation.apply, "CPU_PIXELS", pixels)
        assert torch.equal(sample_and_augment(images, ALL_DRAWN), whole)


def test_the_layout_of_the_images_changes_no_value() -> None:
    images = random_images(6, 14, 9)
    assert torch.equal(sample_and_augment(images, ALL_DRAWN), sample_and_augment(images.contiguous(), ALL_DRAWN))


def test_a_lower_precision_is_the_float32_result_rounded() -> None:
    erasing = RandomErasing(probability=0.7)
    images, options = random_images(16), DataAugmentation(pad=3, random_erasing=erasing, normalisation="imagenet")
    params = sample(options, 16, 12, 8, 12, 8, generator())
    exact, rounded = (
        augment(images, params, options, 12, 8, generator(), dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.bfloat16
    assert rounded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_without_options_only_the_normalisation_is_left() -> None:
    images = random_images()
    torch.testing.assert_close(sample_and_augment(images, PLAIN), normalise(images, "imagenet"))


@pytest.mark.parametrize("fill", ["mean", "colour", "noise"])
def test_erased_pixels_get_their_fill_and_others_stay(fill: str) -> None:
    images = random_images(256)
    erasing = RandomErasing(probability=1.0, fill=fill)  # pyright: ignore[reportArgumentType]
    options = PLAIN.model_copy(update={"random_erasing": erasing})
    pixels, rectangles = sample_and_augment(images, options), sample(options, 256, 12, 8, 12, 8, generator()).rectangles
    assert rectangles is not None
    unchanged = normalise(images, "imagenet")
    values = []
    for image, (top, left, height, width) in enumerate(rectangles.tolist()):
        where = image, slice(None), slice(top, top + height), slice(left, left + width)
        erased = pixels[where].flatten(1)
        values.append(erased[:, :1] if fill == "colour" else erased)
        # A rectangle of noise has many colours, any other has one.
        assert (erased == erased[:, :1]).all() == (fill != "noise" or erased.shape[1] == 1)
        unchanged[where] = pixels[where]
    assert torch.equal(pixels, unchanged)
    drawn = torch.cat(values, 1)
    for channel in drawn:
        assert channel.mean().item() == pytest.approx(0, abs=0.15)
        assert channel.std().item() == pytest.approx(0 if fill == "mean" else 1, abs=0.1)
    if fill != "mean":
        assert torch.corrcoef(drawn).triu(1).abs().max() < 0.2


def test_noise_has_the_deviation_asked_for_and_a_generator_of_its_own() -> None:
    grey = torch.full((32, 3, 12, 8), 128, dtype=torch.uint8)
    options = DataAugmentation(mirror=False, noise=0.1, normalisation="half")
    params = sample(options, 32, 12, 8, 12, 8, generator())
    first, again, other = (augment(grey, params, options, 12, 8, generator(seed)) for seed in (1, 1, 2))
    assert (first / 2 - normalise(grey, "half") / 2).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_patches_lose_their_colour_as_with_torchvision_and_others_keep_it() -> None:
    images = random_images(64)
    options = PLAIN.model_copy(update={"grayscale": 0.3, "grayscale_patch": GrayscalePatch(probability=0.5)})
    rectangles = sample(options, 64, 12, 8, 12, 8, generator()).grey_rectangles
    assert rectangles is not None
    expected = images.clone()
    for image, (top, left, height, width) in zip(expected, rectangles.tolist(), strict=True):
        patch = image[:, top : top + height, left : left + width]
        patch.copy_(rgb_to_grayscale(patch, 3))
    pixels = denormalise(sample_and_augment(images, options), "imagenet").int()
    # torchvision cuts fractions off, and its weights have four digits.
    assert (pixels - expected.int()).abs().max() <= 1
    unchanged = (expected == images).all(1)
    assert torch.equal(pixels.permute(0, 2, 3, 1)[unchanged], images.permute(0, 2, 3, 1)[unchanged].int())


def test_rotation_turns_each_image_by_its_own_angle() -> None:
    images = torch.zeros(200, 3, 12, 8, dtype=torch.uint8)
    images[:, :, 6:8, 6:8] = 255
    options = DataAugmentation(mirror=False, rotation=30.0, normalisation="half")
    params = sample(options, 200, 12, 8, 12, 8, generator())
    assert params.angles is not None
    pixels = augment(images, params, options, 12, 8, generator())[:, 0].double() / 2 + 0.5
    rows, columns = torch.arange(12).double() - 5.5, torch.arange(8).double() - 3.5
    # The centre of brightness lies 3 to the right of the image's centre and 1 below, before it is turned.
    down = (pixels * rows[:, None]).sum((1, 2)) / pixels.sum((1, 2))
    right = (pixels * columns).sum((1, 2)) / pixels.sum((1, 2))
    turned = torch.atan2(down, right) - math.atan2(1, 3)
    torch.testing.assert_close(turned.abs(), params.angles.abs().double(), atol=0.1, rtol=0)
    assert torch.corrcoef(torch.stack((turned, params.angles.double())))[0, 1].abs() > 0.99


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "saturation", "hue", "rotation", "noise", "pad", "grayscale"]
)
def test_every_option_changes_the_images_and_follows_the_generator(name: str) -> None:
    images = random_images()
    value = {"rotation": 20.0, "pad": 2, "grayscale": 0.6}.get(name, 0.3)
    options = PLAIN.model_copy(update={name: value})
    first = sample_and_augment(images, options, 1)
    assert first.shape == (4, 3, 12, 8)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.allclose(first, sample_and_augment(images, PLAIN, 1))
    assert torch.equal(first, sample_and_augment(images, options, 1))
    assert not torch.equal(first, sample_and_augment(images, options, 2))
