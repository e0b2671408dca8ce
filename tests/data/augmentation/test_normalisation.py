"""The normalisation against its formula, whatever the layout of the images."""

import pytest
import torch
from timm.data import constants
from torch import Tensor

from data.augmentation.normalisation import (
    STATISTICS,
    Normalisation,
    denormalise,
    normalisation_of,
    normalise,
    normalise_unit,
    unit_again,
)

MEANS = {
    "imagenet": (0.485, 0.456, 0.406),
    "half": (0.5, 0.5, 0.5),
    "clip": constants.OPENAI_CLIP_MEAN,
    "unit": (0.0, 0.0, 0.0),
    "dpn": constants.IMAGENET_DPN_MEAN,
    "satellite": (0.43, 0.411, 0.296),
}
DEVIATIONS = {
    "imagenet": (0.229, 0.224, 0.225),
    "half": (0.5, 0.5, 0.5),
    "clip": constants.OPENAI_CLIP_STD,
    "unit": (1.0, 1.0, 1.0),
    "dpn": constants.IMAGENET_DPN_STD,
    "satellite": (0.213, 0.156, 0.143),
}


def random_images() -> Tensor:
    return torch.randint(0, 256, (4, 3, 12, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def expected(images: Tensor, normalisation: Normalisation) -> Tensor:
    mean, deviation = (torch.tensor(of[normalisation]).double()[:, None, None] for of in (MEANS, DEVIATIONS))
    return (images.double() / 255 - mean) / deviation


@pytest.mark.parametrize("normalisation", STATISTICS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalisation_and_its_inverse(normalisation: Normalisation, layout: torch.memory_format) -> None:
    images = random_images().contiguous(memory_format=layout)
    pixels = normalise(images, normalisation)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixels.double(), expected(images, normalisation), atol=1e-6, rtol=0)
    assert torch.equal(denormalise(pixels, normalisation), images)


def test_mirrored_images_are_normalised_too() -> None:
    images = random_images().flip(3)[:, :, ::2]
    torch.testing.assert_close(normalise(images, "imagenet").double(), expected(images, "imagenet"), atol=1e-6, rtol=0)


def test_pixels_in_0_to_1_and_beyond_come_back() -> None:
    pixels = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normalised = normalise_unit(pixels, "imagenet")
    assert normalised.dtype == torch.float64
    torch.testing.assert_close(normalised, expected(pixels * 255, "imagenet"), atol=1e-6, rtol=0)
    torch.testing.assert_close(unit_again(normalised, "imagenet"), pixels, atol=1e-6, rtol=0)


def test_a_result_given_is_written_and_must_be_channels_last() -> None:
    images = random_images()
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(4, 3, 12, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
        assert normalise(images, "imagenet", out).data_ptr() == out.data_ptr()
        assert torch.equal(out, normalise(images, "imagenet").to(dtype))
    with pytest.raises(RuntimeError):
        normalise(images, "imagenet", torch.empty(4, 3, 12, 8))


@pytest.mark.parametrize("name", STATISTICS)
def test_mean_and_deviation_have_a_name(name: Normalisation) -> None:
    assert normalisation_of(list(MEANS[name]), list(DEVIATIONS[name])) == name
    assert normalisation_of(MEANS[name], (0.1, 0.2, 0.3)) is None
