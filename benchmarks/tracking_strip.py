"""A picture of what trackers made of a video: frames below one another, a column for each, boxes in their colours."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.synthetic.walking import Frame
from deploy.tracking.scores import Seen
from utils.files import atomic_path

ROWS = 5
_SHARE = 0.6  # of the frames' size
_TITLE, _GAP = 20, 4


def write_strip(path: Path, frames: Sequence[Frame], found: Mapping[str, Sequence[Seen]], rows: int = ROWS) -> None:
    """Writes a PNG with some of the frames, evenly chosen.

    Args:
        path: of the picture.
        frames: the video.
        found: by title, the tracks of every frame.
        rows: how many frames, at most all.
    """
    chosen = np.unique(np.linspace(len(frames) // 8, len(frames) - 1, rows).round().astype(int))
    height, width = (round(_SHARE * length) for length in frames[0].pixels.shape[:2])
    size = (len(found) * (width + _GAP) - _GAP, _TITLE + len(chosen) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, (title, tracks) in enumerate(found.items()):
        left = column * (width + _GAP)
        draw.text((left + 4, 2), f"{title}: one colour and number, one track", "black", font)
        for row, number in enumerate(chosen):
            picture = marked(frames[number].pixels, tracks[number]).resize((width, height), Image.Resampling.LANCZOS)
            ImageDraw.Draw(picture).text((4, 2), f"frame {number}", "black", font, stroke_width=2, stroke_fill="white")
            sheet.paste(picture, (left, _TITLE + row * (height + _GAP)))
    with atomic_path(path) as temporary:
        # A palette, as the noise of the camera would take most of the file; this one keeps the colours of thin lines.
        sheet.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE).save(temporary, "PNG")


def marked(pixels: np.ndarray, tracks: Seen) -> Image.Image:
    """A frame with the box and the number of each track."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(26)
    for number, (x, y, width, height) in zip(tracks.ids, tracks.boxes, strict=True):
        colour = colour_of(int(number))
        draw.rectangle((x, y, x + width, y + height), outline=colour, width=3)
        draw.text((x + width / 2, y - 2), str(number), colour, font, "mb", stroke_width=2, stroke_fill="white")
    return picture


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour for each number; neighbours differ clearly."""
    hue = number * 0.618034 % 1.0  # the golden ratio spreads any count of hues
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 0.85 if number % 2 else 0.6)
    return round(255 * red), round(255 * green), round(255 * blue)
