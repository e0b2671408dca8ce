"""Rank lists of a few queries as one picture, with right and wrong images framed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP_HEIGHT = 128
FRAME = 4
GAP = 10
QUERY_GAP = 26
MARGIN = 16
HEADER = 26
CAPTION = 26

WHITE = (255, 255, 255)
RIGHT = (64, 186, 98)  # much lighter than WRONG, for readers who cannot tell red from green
WRONG = (196, 40, 44)
QUERY = (40, 44, 52)
TEXT = (58, 62, 70)
FAINT = (128, 132, 140)


class RankedImage(NamedTuple):
    """A gallery image in a rank list: pixels (H, W, 3) uint8, its distance, whether it is a true match."""

    image: np.ndarray
    distance: float
    correct: bool


class RankList(NamedTuple):
    """A query, pixels (H, W, 3) uint8, its average precision, and its gallery from the nearest on."""

    query: np.ndarray
    ap: float
    gallery: Sequence[RankedImage]


def spread_by_ap(ap: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` queries, or of all if they are fewer, evenly spread from the worst AP to the best.

    Args:
        ap: (V,) average precision.
        count: number of queries wanted.

    Returns:
        (min(count, V),) int64, ascending in AP; equal ones in their own order.
    """
    order = np.argsort(ap, kind="stable")
    return order[np.linspace(0, len(ap) - 1, min(count, len(ap))).round().astype(np.int64)]


def rank_list_picture(rank_lists: Sequence[RankList]) -> np.ndarray:
    """Draw each query and, after a gap, its gallery images: green frame = right, red = wrong.

    Args:
        rank_lists: at least one; images of any size, drawn 128 pixels high at the first query's proportions.

    Returns:
        (H, W, 3) uint8, on white. Above the columns stand the ranks, below each image its distance.
    """
    height, width = rank_lists[0].query.shape[:2]
    crop_width = max(32, round(CROP_HEIGHT * width / height))
    num_ranks = max(len(row.gallery) for row in rank_lists)
    lefts = [MARGIN + FRAME]
    lefts += [lefts[0] + crop_width + QUERY_GAP + 2 * FRAME + _pitch(crop_width) * place for place in range(num_ranks)]
    row_height = CROP_HEIGHT + 2 * FRAME + CAPTION
    size = (lefts[-1] + crop_width + FRAME + MARGIN, MARGIN + HEADER + row_height * len(rank_lists))
    canvas = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(canvas)
    for left, title in zip(lefts, ["query", *map(str, range(1, num_ranks + 1))], strict=True):
        _write(draw, left + crop_width / 2, MARGIN + HEADER / 2 - 4, title, TEXT, size=14)
    for place, row in enumerate(rank_lists):
        top = MARGIN + HEADER + FRAME + row_height * place
        _paste(canvas, row.query, (lefts[0], top), crop_width, QUERY, f"AP {row.ap:.0%}")
        for left, found in zip(lefts[1:], row.gallery, strict=False):
            colour = RIGHT if found.correct else WRONG
            _paste(canvas, found.image, (left, top), crop_width, colour, _number(found.distance))
    return np.array(canvas)


def _pitch(crop_width: int) -> int:
    return crop_width + 2 * FRAME + GAP


def _number(distance: float) -> str:
    return f"{distance:.3f}" if distance < 10 else f"{distance:.1f}"


def _paste(
    canvas: Image.Image,
    image: np.ndarray,
    corner: tuple[int, int],
    width: int,
    colour: tuple[int, int, int],
    caption: str,
) -> None:
    """One framed image with its caption below; `corner` is the left upper one of the image, inside its frame."""
    left, top = corner
    draw = ImageDraw.Draw(canvas)
    frame = [left - FRAME, top - FRAME, left + width + FRAME - 1, top + CROP_HEIGHT + FRAME - 1]
    draw.rounded_rectangle(frame, radius=FRAME, fill=colour)
    crop = Image.fromarray(image)
    if crop.size != (width, CROP_HEIGHT):
        crop = crop.resize((width, CROP_HEIGHT), Image.Resampling.BICUBIC)
    canvas.paste(crop, corner)
    _write(draw, left + width / 2, top + CROP_HEIGHT + FRAME + CAPTION / 2 - 3, caption, FAINT, size=12)


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: tuple[int, int, int], size: int) -> None:
    """Text centred on a point."""
    draw.text((x, y), text, fill=colour, font=ImageFont.load_default(size), anchor="mm")
