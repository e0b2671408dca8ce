"""Confusion matrices, counted and drawn."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluate.core.pictures import FAINT, MARGIN, RIGHT, TEXT, WHITE, WRONG

Colour = tuple[int, int, int]

EMPTY = (244, 245, 247)
CELL_GAP = 2
NAME_GAP = 10
LONGEST_NAME = 170  # pixels
LINE = 22
TITLE = "Confusion matrix: percent of each class's images"


def most_confused(labels: Tensor, predicted: Tensor, num_classes: int, count: int) -> Tensor:
    """The classes with most errors, those of their own images and those of images taken for them together.

    Args:
        labels: (N,) int64 true classes, 0..C-1.
        predicted: (N,) int64 classes they were taken for.
        num_classes: C.
        count: classes wanted; of equally many errors, classes that have images come first, then the earlier ones.

    Returns:
        (min(count, C),) int64, ascending.
    """
    wrong = labels != predicted
    errors = torch.cat([labels[wrong], predicted[wrong]]).bincount(minlength=num_classes)
    has_images = labels.bincount(minlength=num_classes) > 0
    return (2 * errors + has_images).argsort(descending=True, stable=True)[:count].sort().values


def confusion_counts(labels: Tensor, predicted: Tensor, num_classes: int, classes: Tensor) -> Tensor:
    """How many images of each of some classes were taken for which of them.

    Args:
        labels, predicted, num_classes: as for `most_confused`. Nothing of size C x C is made.
        classes: (M,) int64, those looked at.

    Returns:
        (M, M + 1) int64: rows are true classes, columns what they were taken for, the last being all other classes.
    """
    size = len(classes)
    place = torch.full((num_classes,), size)
    place[classes] = torch.arange(size)
    rows, columns = place[labels], place[predicted]
    pairs = (rows * (size + 1) + columns)[rows < size]
    return pairs.bincount(minlength=size * (size + 1)).view(size, size + 1)


class _Layout(NamedTuple):
    """The left upper corner of the cells, their pitch, and the names of rows and columns as they are written."""

    left: int
    top: int
    pitch: int
    rows: list[str]
    columns: list[str]
    upright: bool
    """Whether column names are horizontal; otherwise they are rotated by 90 degrees."""
    name_height: int

    @property
    def right(self) -> int:
        """Right edge of the cells."""
        return self.left + self.pitch * len(self.columns)

    @property
    def bottom(self) -> int:
        """Lower edge of the cells."""
        return self.top + self.pitch * len(self.rows)


def confusion_picture(counts: Tensor, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Draw a confusion matrix, each row in percent of its class's images: green = right, red = wrong.

    Args:
        counts: (M, M + 1) int64, as `confusion_counts` returns them.
        names: the M classes' names.
        num_classes: C; where M < C the picture says which classes it shows and has the last column.

    Returns:
        (H, W, 3) uint8, on white. Left of each row stands its class, right of it the number of its images.
    """
    is_part = len(names) < num_classes
    layout = _layout(names, is_part)
    width = max(layout.right + NAME_GAP + _length("images"), MARGIN + _length(TITLE, 18)) + MARGIN
    canvas = Image.new("RGB", (width, layout.bottom + MARGIN), WHITE)
    draw = ImageDraw.Draw(canvas)
    _write(draw, (MARGIN, MARGIN + LINE // 2), TITLE, TEXT, "lm", size=18)
    if is_part:
        subtitle = f"the {len(names)} of {num_classes} classes with most errors"
        _write(draw, (MARGIN, MARGIN + LINE + LINE // 2), subtitle, FAINT, "lm")
    _draw_column_heads(canvas, layout, is_part)
    for row, (name, numbers) in enumerate(zip(layout.rows, counts.tolist(), strict=True)):
        images, top = sum(numbers), layout.top + layout.pitch * row
        middle = top + layout.pitch // 2
        _write(draw, (layout.left - NAME_GAP, middle), name, TEXT if images else FAINT, "rm")
        _write(draw, (layout.right + NAME_GAP, middle), str(images), FAINT, "lm")
        for column in range(len(layout.columns)):
            share = numbers[column] / images if images else 0.0
            corner = (layout.left + layout.pitch * column, top)
            _draw_cell(draw, corner, layout.pitch - CELL_GAP, share, RIGHT if row == column else WRONG)
    return np.array(canvas)


def _layout(names: Sequence[str], is_part: bool) -> _Layout:
    rows = [_shortened(name) for name in names]
    columns = [*rows, "other"] if is_part else rows
    pitch = 46 if len(rows) <= 12 else 38 if len(rows) <= 30 else 32
    longest = max(map(_length, columns))
    upright = longest <= pitch - 4
    name_height = LINE if upright else longest + NAME_GAP
    top = MARGIN + LINE * (3 if is_part else 2) + LINE // 2 + name_height
    left = MARGIN + max(map(_length, [*rows, "true class"])) + NAME_GAP
    return _Layout(left, top, pitch, rows, columns, upright, name_height)


def _draw_column_heads(canvas: Image.Image, layout: _Layout, is_part: bool) -> None:
    draw = ImageDraw.Draw(canvas)
    y = layout.top - layout.name_height - LINE // 2
    for x, text, anchor in (
        (layout.left - NAME_GAP, "true class", "rm"),
        (layout.left, "taken for", "lm"),
        (layout.right + NAME_GAP, "images", "lm"),
    ):
        _write(draw, (x, y), text, FAINT, anchor)
    for column, name in enumerate(layout.columns):
        colour = FAINT if is_part and column == len(layout.rows) else TEXT
        x = layout.left + layout.pitch * column + (layout.pitch - CELL_GAP) // 2
        if layout.upright:
            _write(draw, (x, layout.top - LINE // 2), name, colour, "mm")
            continue
        mask = Image.new("L", (_length(name), LINE))
        ImageDraw.Draw(mask).text((0, LINE // 2), name, fill=255, font=_font(14), anchor="lm")
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        canvas.paste(colour, (x - LINE // 2, layout.top - NAME_GAP // 2 - mask.height), mask)


def _draw_cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, share: float, colour: Colour) -> None:
    """A square, the deeper in colour the larger the share, with the percentage in it; grey for a share of 0."""
    left, top = corner
    box = (left, top, left + size - 1, top + size - 1)
    if share == 0.0:
        draw.rounded_rectangle(box, radius=3, fill=EMPTY)
        return
    # The smallest share is still visible.
    depth = 0.15 + 0.85 * share
    red, green, blue = (round(white + depth * (full - white)) for white, full in zip(WHITE, colour, strict=True))
    draw.rounded_rectangle(box, radius=3, fill=(red, green, blue))
    text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128
    _write(draw, (left + size // 2, top + size // 2), text, WHITE if is_dark else TEXT, "mm", size=13)


def _shortened(name: str) -> str:
    """The name, its middle left out where it is too long; names of a kind often differ at the end only."""
    kept = len(name)
    shown = name
    while _length(shown) > LONGEST_NAME:
        kept -= 1
        shown = f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
    return shown


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; loading it takes longer than writing a cell."""
    return ImageFont.load_default(size)


def _length(text: str, size: int = 14) -> int:
    """Width of a text, pixels."""
    return round(_font(size).getlength(text))


def _write(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, colour: Colour, anchor: str, size: int = 14
) -> None:
    draw.text(position, text, fill=colour, font=_font(size), anchor=anchor)
