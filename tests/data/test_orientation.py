"""EXIF data say how an image lies."""

import numpy as np
import pytest
from PIL import Image

from data.decoding import decode_bytes
from tests.data.encoded import encode, exif, scene


def place_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixel by pixel, as EXIF 2.3 tells of each orientation where the first row and the first column are seen."""
    height, width = pixels.shape[:2]
    upright = np.zeros((height, width, 3) if orientation < 5 else (width, height, 3), dtype=np.uint8)
    for row in range(height):
        for column in range(width):
            up, left, down, right = row, column, height - 1 - row, width - 1 - column
            where = {
                1: (up, left),
                2: (up, right),
                3: (down, right),
                4: (down, left),
                5: (left, up),
                6: (left, down),
                7: (right, down),
                8: (right, up),
            }[orientation]
            upright[where] = pixels[row, column]
    return upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_its_exif_data_ask(form: str, orientation: int) -> None:
    for order in "<>":
        stored, turned = encode(scene(), form), encode(scene(), form, exif=exif(orientation, order))
        expected = place_upright(decode_bytes(stored), orientation)
        np.testing.assert_array_equal(decode_bytes(turned), expected)
        # Turned before it is resized, or a person that lies would be squeezed.
        resized = Image.fromarray(expected).resize((20, 30), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decode_bytes(turned, 30, 20), np.asarray(resized))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        exif(6)[:12],
        exif(6)[:30],
        exif(0),
        exif(9),
        exif(6).replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff"),  # begins beyond its end
        exif(6).replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02"),  # text instead of a number
    ],
    ids=["empty", "garbage", "cut", "cut within an entry", "0", "9", "no directory", "text"],
)
def test_damaged_exif_data_turn_nothing(form: str, damaged: bytes) -> None:
    expected = decode_bytes(encode(scene(), form))
    np.testing.assert_array_equal(decode_bytes(encode(scene(), form, exif=damaged)), expected)
