"""From the bytes of an image file to pixels."""

import io
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
REFUSED_FORMATS = ("GIF", "TIFF")
"""Recognised only to be named in the message."""
MAX_PIXELS = 2**26
"""Of an image, such as 8192 x 8192; Pillow needs 256 MiB for it, and the array 192."""
MAX_SCANS = 100
"""Of a JPEG; a progressive one has about ten, and each takes the time of all pixels, however few bytes it has."""
RUN_LENGTHS = (1, 2)
"""Kinds of compression in a BMP that Pillow decodes in Python, which takes seconds even for a small file."""

Interpolation = Literal["bilinear", "bicubic"]
"""Both with antialiasing; torch's functions have the same words."""
RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Resize(NamedTuple):
    """The size that images of any other are brought to, and how."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    interpolation: Interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """An image in this size; the image itself if it has it already."""
        size = self.width, self.height
        return image if image.size == size else image.resize(size, RESAMPLING[self.interpolation])


def decode_bytes(content: bytes, resize: Resize | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG, PNG, BMP or WebP as RGB, and resize it.

    The format is detected from the content, not from a suffix. The EXIF orientation is applied first. Alpha and
    transparent colours are dropped: a transparent pixel has the colour stored for it. Of 16 bits the higher 8 are kept,
    of an animation the first image. CMYK is read as Adobe writes it, inverted; colour profiles are not applied.
    A BMP must not be in run lengths.

    Args:
        content: a whole file.
        resize: to what size; None keeps the image's own.
        max_pixels: an image of more is refused before memory is allocated for it; at most MAX_PIXELS.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: it is empty, truncated, damaged, of another format, or has more than `max_pixels`; its message names
            no file.
    """
    try:
        image = _open(content, max_pixels)
        image.load()
        with suppress(Exception):  # damaged EXIF data, which have no orientation
            ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
        return np.asarray(rgb if resize is None else resize(rgb))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("damaged, or not an image that can be read; supported are JPEG, PNG, BMP and WebP") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"more than {max_pixels:,} pixels; scale it down") from error
    except MemoryError as error:
        raise DataError("not enough memory to decode it") from error
    except Exception as error:  # damaged files make decoders raise nearly everything, even IndexError
        raise DataError(f"damaged, or not an image that can be read: {error}") from error


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """The image, of which only the header has been read."""
    if not content:
        raise DataError("an empty file, not an image that can be read")
    image = Image.open(io.BytesIO(content), formats=FORMATS + REFUSED_FORMATS)
    if image.format in REFUSED_FORMATS:
        raise DataError(f"a {image.format}, which is not an image that can be read; save it as JPEG, PNG, BMP or WebP")
    if image.width * image.height > max_pixels:
        raise DataError(f"{image.width} x {image.height} is more than {max_pixels:,} pixels; scale it down")
    if content.startswith(b"\xff\xd8") and (scans := content.count(b"\xff\xda")) > MAX_SCANS:
        raise DataError(f"a JPEG of {scans} scans is not decoded; save it again with at most {MAX_SCANS}")
    if image.format == "BMP" and image.info["compression"] in RUN_LENGTHS:
        raise DataError("a BMP in run lengths is not decoded; save it again without")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    # Otherwise Pillow keeps the transparent colour, and warns where it cannot.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        # Pillow clips these to 255. Of 16 bits per colour it takes the higher 8, too.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
