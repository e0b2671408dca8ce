"""Small images of every kind that is read, to change at random, and what must hold of whatever comes out."""

import warnings

import numpy as np
from PIL import Image

from data.decoding import decode_bytes
from tests.data.encoded import encode
from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


def small_images() -> dict[str, bytes]:
    """Files of 12 x 10 pixels by what is special about them; under a format's name, nothing is."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    grey16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    two = {"save_all": True, "append_images": [rgb.rotate(180)]}
    return {
        **{form: encode(rgb, form) for form in FORMATS},
        "JPEG, progressive": encode(rgb, "JPEG", progressive=True),
        "JPEG, CMYK": encode(rgb.convert("CMYK"), "JPEG"),
        "JPEG, grey, turned": encode(rgb.convert("L"), "JPEG", exif=exif),
        "PNG, alpha, turned": encode(rgb.convert("RGBA"), "PNG", exif=exif),
        "PNG, palette": encode(rgb.quantize(8), "PNG", transparency=bytes(range(8))),
        "PNG, 16 bits": encode(grey16, "PNG"),
        "PNG, animated": encode(rgb, "PNG", **two),
        "BMP, palette": encode(rgb.quantize(8), "BMP"),
        "WEBP, lossless, turned": encode(rgb.convert("RGBA"), "WEBP", lossless=True, exif=exif),
        "WEBP, animated": encode(rgb, "WEBP", **two),
    }


def decode_or_refuse(content: bytes) -> None:
    """Pixels or DataError, and no warning: the tests make errors of warnings, and decode_bytes would catch those."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = decode_bytes(content, 16, 8)
        except DataError as error:
            assert str(error)  # noqa: PT017
        else:
            assert image.shape == (16, 8, 3)
            assert image.dtype == np.uint8
    assert [str(warning.message) for warning in caught] == []
