"""Confusion matrices, counted and drawn."""

import warnings
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from evaluate.core.pictures import FAINT, RIGHT, TEXT, WHITE, WRONG

EMPTY = (244, 245, 247)
DPI = 100
CELL = 0.44
"""Inches on a side of a cell."""
LONGEST_NAME = 24
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
    rows = [_shortened(name) for name in names]
    columns = [*rows, "other"] if is_part else rows
    num_images = counts.sum(dim=1)
    shares = (counts[:, : len(columns)] / num_images[:, None].clamp(min=1)).numpy()
    buffer = BytesIO()
    with style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        # A class name may hold characters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=(CELL * len(columns), CELL * len(rows)), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw_matrix(axes, shares, rows, columns, num_images.tolist())
        subtitle = f"\nthe {len(rows)} of {num_classes} classes with most errors" if is_part else ""
        axes.set_title(TITLE + subtitle, loc="left", pad=12, fontsize=11)
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.16)
    return np.array(Image.open(buffer).convert("RGB"))


def _draw_matrix(
    axes: Axes, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], num_images: Sequence[int]
) -> None:
    """Cells as deep in colour as shares (M, M or M + 1) are large, with their percentages, names and counts."""
    is_right = np.eye(*shares.shape, dtype=bool)
    # The smallest share is still visible.
    depth = (0.15 + 0.85 * shares)[..., None]
    colours = np.array(WHITE) + depth * (np.where(is_right[..., None], RIGHT, WRONG) - np.array(WHITE))
    colours = np.where(shares[..., None] > 0, colours, EMPTY).round().astype(np.uint8)
    # Quads instead of an image: resampling that takes seconds for a hundred classes.
    axes.pcolormesh(colours, edgecolors="white", linewidth=0.75)
    axes.invert_yaxis()
    luminance = colours @ (0.299, 0.587, 0.114)
    text, faint = (tuple(channel / 255 for channel in colour) for colour in (TEXT, FAINT))
    for row, column in zip(*shares.nonzero(), strict=True):
        share = shares[row, column]
        colour = "white" if luminance[row, column] < 128 else text
        percent = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        axes.text(column + 0.5, row + 0.5, percent, color=colour, ha="center", va="center")
    upright = max(map(len, columns)) <= 3
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=0 if upright else 90)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xlabel("taken for", color=faint)
    axes.set_ylabel("true class", color=faint)
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(np.arange(len(rows)) + 0.5, list(map(str, num_images)))
    counts.set_ylabel("images", color=faint)
    for each in (axes, counts):
        each.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        each.spines[:].set_visible(False)


def _shortened(name: str) -> str:
    """The name, its middle left out where it is long; names of a kind often differ at the end only."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
