"""Image files as bytes: encoded by Pillow, or put together by their specification."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (200, 10, 20), (30, 210, 40), (50, 60, 220)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by its specification; `extra` are chunks ahead of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def exif(orientation: int, order: str = ">") -> bytes:
    """EXIF data with a description, whose text lies at their end, and the orientation."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    other = struct.pack(f"{order}HHII", 0x010E, 2, 8, 38)
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + other + entry + bytes(4) + b"a camera"


def scene(width: int = 48, height: int = 64) -> Image.Image:
    """No two of its corners are alike."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for (rows, columns), colour in {(0, 0): RED, (0, 1): GREEN, (1, 0): BLUE}.items():
        pixels[rows * height // 2 :, columns * width // 2 :][: height // 2, : width // 2] = colour
    return Image.fromarray(pixels)
