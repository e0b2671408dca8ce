"""From the bytes of an image file to pixels."""

import io
import struct

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from utils.errors import DataError

MAX_BYTES = 2**28
"""Of a file; 256 MiB hold MAX_PIXELS without any compression."""
MAX_PIXELS = 2**26
"""Of an image, such as 8192 x 8192; Pillow takes 256 MiB for as many, and the array 192."""
MAX_SCANS = 100
"""Of a JPEG; a progressive one has about ten, and each takes the time of all pixels, however few bytes it has."""

OTHER_FORMATS = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
"""How files of formats begin that are found under a wrong suffix, and are not read."""
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""The chunks of a PNG that its pixels depend on."""
RUN_LENGTHS = (1, 2)
"""Kinds of compression in a BMP that Pillow undoes in Python, which takes seconds for a file of a few hundred bytes."""
ORIENTATION, TYPE_SHORT = 0x0112, 3
"""Tag and type in EXIF data."""
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that EXIF knows beside 1, the upright one."""


def decode_bytes(content: bytes, height: int = 0, width: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG, PNG, BMP or WebP as RGB, resized bilinearly (with antialiasing) where its size differs.

    The content tells the format, not a suffix. An orientation in the EXIF data is applied first. Alpha and transparent
    colours are dropped: a transparent pixel has the colour stored for it. Of 16 bits the higher 8 stay. Of an
    animation the first image counts, in a PNG the one for programs that know no animation. CMYK is read as Adobe
    writes it, inverted; colour profiles are not applied. A BMP must not be in run lengths.

    Args:
        content: all of a file.
        height, width: size wanted, pixels; 0 keeps the image's own.
        max_pixels: an image of more is refused before they take memory; at most MAX_PIXELS.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: it is empty, truncated, damaged, of another format, or has more than MAX_BYTES or `max_pixels`; its
            message names no file.
    """
    if problem := why_too_long(len(content)):
        raise DataError(problem)
    try:
        image, exif = _open(content)
        if image.width * image.height > max_pixels:
            raise DataError(f"{image.width} x {image.height} is more than {max_pixels:,} pixels; scale it down")
        rgb = _upright(_to_rgb(image), exif)
        if height and width and rgb.size != (width, height):
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(rgb)
    except DataError:
        raise
    except Image.DecompressionBombError as error:  # WebP: Pillow has a limit of its own before it reserves memory
        raise DataError(f"more than {MAX_PIXELS:,} pixels; scale it down") from error
    except MemoryError as error:
        raise DataError("not enough memory to decode it") from error
    except Exception as error:  # on damaged files decoders raise nearly everything, among it IndexError and zlib.error
        raise DataError(f"damaged, or not an image that can be read: {error}") from error


def why_too_long(length: int) -> str:
    """What is wrong with a file of so many bytes; "" if nothing."""
    return f"{length:,} bytes; files of at most {MAX_BYTES:,} are read" if length > MAX_BYTES else ""


class _Jpeg(JpegImageFile):
    """A JPEG whose EXIF data Pillow does not look into for a resolution, since it warns if they are damaged.

    Such warnings cannot be held back here: in Python they can be switched off for all threads only.
    """

    def getexif(self) -> Image.Exif:
        """Nothing; `info` has the bytes."""
        return Image.Exif()


def _open(content: bytes) -> tuple[ImageFile, bytes]:
    """The image, of which only the header has been read, and its EXIF data; b"" if it has none.

    The formats' classes stand in for Image.open, which tries every format there is and warns of what it finds.
    """
    if content.startswith(b"\xff\xd8\xff"):
        if (scans := content.count(b"\xff\xda")) > MAX_SCANS:
            raise DataError(f"a JPEG of {scans} scans is not decoded; save it anew with at most {MAX_SCANS}")
        image = _Jpeg(io.BytesIO(content))
        return image, image.info.get("exif", b"")
    if content.startswith(PNG_START):
        pixels, exif = _split_png(content)
        return PngImageFile(io.BytesIO(pixels)), exif
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        image = WebPImageFile(io.BytesIO(content))
        return image, image.info.get("exif", b"")
    if content.startswith(b"BM"):
        image = BmpImageFile(io.BytesIO(content))
        if image.info["compression"] in RUN_LENGTHS:
            raise DataError("a BMP in run lengths is not decoded; save it anew without")
        return image, b""
    if other := OTHER_FORMATS.get(content[:4]):
        raise DataError(f"a {other}, which is not an image that can be read; save it as JPEG, PNG, BMP or WebP")
    raise DataError("not an image that can be read" if content else "an empty file, not an image that can be read")


def _split_png(content: bytes) -> tuple[bytes, bytes]:
    """A PNG with nothing but what makes its pixels, and its EXIF data.

    So Pillow neither unpacks texts and profiles, which may be huge, nor warns of animations that are damaged.
    """
    pixels, exif = bytearray(PNG_START), b""
    place, kind = len(PNG_START), b""
    while kind != b"IEND" and place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + length + 12  # behind the chunk's length, name, data and checksum
        if kind in PNG_PIXELS:
            pixels += content[place:end]
        elif kind == b"eXIf":
            exif = content[place + 8 : end - 4]
        place = end
    return bytes(pixels), exif


def _to_rgb(image: ImageFile) -> Image.Image:
    """Decode the pixels, and make them RGB."""
    image.load()
    # Pillow would keep the transparent colour, and warn where it cannot.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        # Pillow would clip to 255. Of 16 bits per colour it takes the higher 8, too.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, exif: bytes) -> Image.Image:
    """The image turned and mirrored as its EXIF data ask for; as it is where they do not, or are damaged."""
    undo = TO_UPRIGHT.get(_orientation(exif)) if exif else None
    return image if undo is None else image.transpose(undo)


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF data tell; 1, upright, if they tell none or are damaged.

    Source: TIFF 6.0, section 2: the header leads to a directory of entries of 12 bytes: tag, type, count, value.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (number,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == ORIENTATION:
                return value if kind == TYPE_SHORT else 1
    except struct.error:
        pass
    return 1
