import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decoding import MAX_PIXELS, MAX_SCANS, Interpolation, Resize, decode_bytes
from tests.conftest import ROOT
from tests.data.encoded import BLUE, GREEN, RED, chunk, encode, exif, png, scene
from utils.errors import DataError


def palette_image() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    return image


MODES: dict[str, tuple[bytes, list[tuple[int, ...]]]] = {
    "grey": (encode(Image.new("L", (2, 1), 77), "PNG"), [(77, 77, 77)] * 2),
    "one bit": (encode(Image.new("1", (2, 1), 1), "PNG"), [(255, 255, 255)] * 2),
    "palette": (encode(palette_image(), "PNG"), [RED, GREEN]),
    "palette BMP": (encode(palette_image(), "BMP"), [RED, GREEN]),
    # Transparency is dropped, however it is told: per pixel, per entry of the palette, as one colour.
    "RGBA": (encode(Image.new("RGBA", (2, 1), (*RED, 0)), "PNG"), [RED] * 2),
    "grey and alpha": (encode(Image.new("LA", (2, 1), (77, 0)), "PNG"), [(77, 77, 77)] * 2),
    "transparent entries": (encode(palette_image(), "PNG", transparency=bytes([0, 128])), [RED, GREEN]),
    "one transparent entry": (encode(palette_image(), "PNG", transparency=1), [RED, GREEN]),
    "transparent colour": (encode(Image.new("RGB", (2, 1), RED), "PNG", transparency=RED), [RED] * 2),
    "transparent grey": (encode(Image.new("L", (2, 1), 77), "PNG", transparency=77), [(77, 77, 77)] * 2),
    "WebP with alpha": (encode(Image.new("RGBA", (2, 1), (*RED, 128)), "WEBP", lossless=True), [RED] * 2),
    "BMP with alpha": (encode(Image.new("RGBA", (2, 1), (*RED, 0)), "BMP"), [RED] * 2),
    # 16 bits: the higher 8.
    "16 bits grey": (
        png(4, 1, 16, 0, b"\0" + struct.pack(">4H", 0, 255, 256, 65535)),
        [(v, v, v) for v in (0, 0, 1, 255)],
    ),
    "16 bits grey, transparent": (png(1, 1, 16, 0, b"\0\x80\0", chunk(b"tRNS", b"\x80\0")), [(128, 128, 128)]),
    "16 bits RGB": (
        png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 255, 256, 511, 512, 65535)),
        [(0, 0, 1), (1, 2, 255)],
    ),
    "16 bits grey and alpha": (png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 512, 0)), [(2, 2, 2)]),
    "16 bits RGBA": (png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 512, 768, 1024, 0)), [(2, 3, 4)]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name: str) -> None:
    content, expected = MODES[name]
    image = decode_bytes(content)
    assert image.dtype == np.uint8
    assert image.tolist() == [[list(pixel) for pixel in expected]]


def test_cmyk_is_read_as_adobe_writes_it() -> None:
    content = encode(Image.new("CMYK", (16, 16), (255, 0, 51, 102)), "JPEG", quality=100)
    assert b"Adobe" in content
    expected = [(255 - ink) * (255 - 102) / 255 for ink in (255, 0, 51)]
    assert np.abs(decode_bytes(content)[8, 8] - np.array(expected)).max() < 3


def test_no_warning_of_pillow_gets_out_of_a_script(tmp_path: Path) -> None:
    jpeg = encode(scene(), "JPEG")
    # Without a resolution in its header Pillow looks for one in the EXIF data, and warns if they are damaged.
    no_header = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 22) + exif(6)[:20] + jpeg[20:]
    bad_animation = png(1, 1, 8, 0, b"\0\x07", chunk(b"acTL", bytes(8)))
    bad_pair = jpeg[:20] + b"\xff\xe2\x00\x0aMPF\0abcd" + jpeg[20:]
    large = png(10_000, 9_500, 8, 0, b"")
    for content, warning in ((no_header, "EXIF"), (bad_animation, "APNG"), (bad_pair, "MPO"), (large, "bomb")):
        with pytest.warns((UserWarning, RuntimeWarning), match=warning), Image.open(io.BytesIO(content)):
            (tmp_path / warning).write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from data.images import find_bad_images\n"
        "from utils.logs import log_to_screen\n"
        "log_to_screen()\n"
        "for bad in find_bad_images(sorted(Path(sys.argv[1]).iterdir())): print(bad.path.name, bad.reason)\n"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    assert ended.stdout == "bomb 10000 x 9500 is more than 67,108,864 pixels; scale it down\n"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_image_counts(form: str) -> None:
    frames = [Image.new("RGB", (8, 4), colour) for colour in (GREEN, RED, BLUE)]
    content = encode(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert decode_bytes(content).tolist() == [[list(GREEN)] * 8] * 4


def test_too_many_pixels_are_refused_by_the_header() -> None:
    jpeg, bmp = encode(scene(), "JPEG"), encode(scene(), "BMP")
    place = jpeg.index(b"\xff\xc0") + 5
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\x60\xea\0" * 2
    for content in (
        png(60_000, 60_000, 8, 2, b""),
        jpeg[:place] + struct.pack(">HH", 65_000, 65_000) + jpeg[place + 4 :],
        bmp[:18] + struct.pack("<ii", 100_000, 100_000) + bmp[26:],
        b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas,
    ):
        with pytest.raises(DataError, match=f"more than {MAX_PIXELS:,} pixels; scale it down"):
            decode_bytes(content)


def test_the_limit_itself_is_decoded() -> None:
    # One bit a pixel: Pillow alone would have warned of the second one.
    side = int(MAX_PIXELS**0.5)
    rows = (b"\0" + bytes(side // 8)) * side
    assert decode_bytes(png(side, side, 1, 0, rows), Resize(8, 4, "bilinear")).shape == (8, 4, 3)
    with pytest.raises(DataError, match=f"{side} x {side + 1} is more than"):
        decode_bytes(png(side, side + 1, 1, 0, rows))


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    content = encode(scene(), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    np.testing.assert_array_equal(decode_bytes(content[:-2] + last + content[-2:]), decode_bytes(content))
    with pytest.raises(DataError, match=r"a JPEG of \d+ scans is not decoded; save it again"):
        decode_bytes(content[:-2] + last * MAX_SCANS + content[-2:])


def test_without_memory_an_image_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(DataError, match=r"^not enough memory to decode it$"):
        decode_bytes(encode(scene(), "PNG"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "an empty file"),
        (b"<html>not found</html>", "JPEG, PNG, BMP and WebP"),
        (encode(scene(), "GIF"), "a GIF, which is not an image that can be read; save it as JPEG, PNG, BMP or WebP"),
        (encode(scene(), "TIFF"), "a TIFF, which is not an image that can be read; save it as JPEG, PNG, BMP or WebP"),
        # PostScript above all: Pillow would start another program to read it.
        (encode(scene(), "EPS"), "JPEG, PNG, BMP and WebP"),
        (encode(scene(), "PPM"), "JPEG, PNG, BMP and WebP"),
    ],
    ids=["empty", "text", "GIF", "TIFF", "EPS", "PPM"],
)
def test_other_formats_are_refused(content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        decode_bytes(content)
    assert "not an image that can be read" in str(caught.value)


@pytest.mark.parametrize("kind", [1, 2])
def test_a_bmp_in_run_lengths_is_refused(kind: int) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 8 // kind, kind, 0, 0, 0, 2, 0)
    palette = bytes((*RED[::-1], 0, *GREEN[::-1], 0))
    pixels = bytes((2, 0x11, 0, 1))  # twice the second colour, or in four bits the second colour twice; the end
    content = b"BM" + struct.pack("<IHHI", 66, 0, 0, 62) + header + palette + pixels
    with Image.open(io.BytesIO(content)) as image:
        assert image.convert("RGB").size == (2, 1)
    with pytest.raises(DataError, match="a BMP in run lengths is not decoded; save it again without"):
        decode_bytes(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_truncated_image_is_refused_wherever_it_ends(form: str) -> None:
    content = encode(scene(12, 10), form)
    whole = decode_bytes(content)
    num_refused = 0
    for length in range(len(content)):
        try:
            image = decode_bytes(content[:length])
        except DataError as error:
            assert str(error)  # noqa: PT017
            num_refused += 1
        else:  # what is missing held no pixels
            np.testing.assert_array_equal(image, whole)
    assert num_refused > len(content) * 0.7


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
        np.testing.assert_array_equal(decode_bytes(turned, Resize(30, 20, "bilinear")), np.asarray(resized))


def triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys 1981, equation 4 with a = -0.5."""
    x = np.abs(distance)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(rows: np.ndarray, size: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N, ...) -> (size, ...): each a mean of rows, weighted by a kernel that is as wide as a new row or an old one."""
    scale = len(rows) / size
    result = np.empty((size, *rows.shape[1:]))
    for row in range(size):
        centre = (row + 0.5) * scale
        weights = kernel((np.arange(len(rows)) + 0.5 - centre) / max(scale, 1))
        result[row] = np.tensordot(weights / weights.sum(), rows, 1)
    return result


@pytest.mark.parametrize(("interpolation", "kernel"), [("bilinear", triangle), ("bicubic", cubic)])
@pytest.mark.parametrize(("height", "width"), [(16, 8), (7, 40), (60, 15), (100, 99)])
def test_an_image_is_resized_with_antialiasing(
    interpolation: Interpolation, kernel: Callable[[np.ndarray], np.ndarray], height: int, width: int
) -> None:
    # Pillow rounds and clips after each direction; these leave nothing to clip.
    pixels = np.random.default_rng(0).integers(64, 192, (40, 30, 3), np.uint8)
    content = encode(Image.fromarray(pixels), "PNG")
    found = decode_bytes(content, Resize(height, width, interpolation))
    by_columns = resampled(pixels.swapaxes(0, 1).astype(float), width, kernel).swapaxes(0, 1)
    assert found.shape == (height, width, 3)
    assert np.abs(found - resampled(by_columns, height, kernel)).max() < 1.5
    np.testing.assert_array_equal(decode_bytes(content, Resize(40, 30, interpolation)), pixels)


@pytest.mark.filterwarnings("ignore")  # by which Pillow tells of damaged EXIF data
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
