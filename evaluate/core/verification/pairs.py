"""Pairs of images to verify: LFW's file format, and the distances of pairs."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.images import image_exists
from data.samples import Sample
from evaluate.core.retrieval.distances import Metric
from utils.errors import DataError

NUM_SHOWN = 10
PAIRS_AT_ONCE = 4096
LONGEST_LINE = 100
NUMBER = re.compile("[0-9]{1,9}")
"""int() refuses thousands of digits."""

Image = tuple[str, int]
"""Name of a person and number of an image of theirs, from 1."""


class Pairs(NamedTuple):
    """N pairs of images, in folds.

    samples: the distinct images; first, second: (N,) int64 indices of them; is_genuine: (N,) bool, whether both show
    one person; folds: (N,) int64, from 0 and none of them empty.
    """

    samples: list[Sample]
    first: Tensor
    second: Tensor
    is_genuine: Tensor
    folds: Tensor

    @property
    def num_folds(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1


def read_pairs(path: Path, folder: Path, suffix: str) -> Pairs:
    """Read pairs in LFW's format.

    The first line holds the number of folds and the number of pairs of each kind in a fold, or the latter alone, which
    means one fold. Then for each fold come its genuine pairs, "NAME 1 2", and its impostors, "NAME 1 OTHER_NAME 2",
    with tabs or spaces between. Image 1 of NAME is folder/NAME/NAME_0001 with the suffix.

    Raises:
        DataError: with everything that is wrong with the file and every image that is missing, at most 10 of them by
            name.

    Source: Huang et al. 2007, Labeled Faces in the Wild.
    """
    lines = _lines(path)
    num_folds, num_each = _header(path, lines[0][1] if lines else [])
    problems: list[str] = []
    pairs = _parse(lines[1:], num_folds, num_each, problems)
    index_of = {image: index for index, image in enumerate(dict.fromkeys(image for pair in pairs for image in pair))}
    samples = _samples(index_of, folder, suffix)
    problems += [f"no such image: {sample.path}" for sample in samples if not image_exists(sample.path)]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:NUM_SHOWN])
        rest = f"\n  and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(
            f"evaluation_params.pairs_file: {path}: {count}; images are looked for in {folder}, "
            f"unless pairs_dir names another folder:{shown}{rest}"
        )
    first, second = torch.tensor([[index_of[image] for image in pair] for pair in pairs]).T
    is_genuine = torch.tensor([True, False] * num_folds).repeat_interleave(num_each)
    return Pairs(samples, first, second, is_genuine, torch.arange(num_folds).repeat_interleave(2 * num_each))


def without_images(pairs: Pairs, left: Sequence[Sample]) -> Pairs:
    """The pairs of which both images are among those `left`, in the same folds; `samples` are then those left."""
    row_of = {sample.path: row for row, sample in enumerate(left)}
    rows = torch.tensor([row_of.get(sample.path, -1) for sample in pairs.samples])
    first, second = rows[pairs.first], rows[pairs.second]
    kept = (first >= 0) & (second >= 0)
    return Pairs(list(left), first[kept], second[kept], pairs.is_genuine[kept], pairs.folds[kept])


def pair_distances(features: Tensor, first: Tensor, second: Tensor, metric: Metric) -> Tensor:
    """Distances of pairs of embeddings, computed in double precision.

    Args:
        features: (M, D) embeddings, finite, need not be of unit length.
        first, second: (N,) int64 rows of them.
        metric: "cosine": 1 - cosine of the angle, 0..2; "euclidean": length of the difference.

    Returns:
        (N,) float32, nowhere negative.

    Raises:
        DataError: for "cosine", an embedding of length zero, which has no direction.
    """
    parts = [torch.zeros(0)]
    for left, right in zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True):
        one, other = features[left].double(), features[right].double()
        if metric == "euclidean":
            parts.append(torch.linalg.vector_norm(one - other, dim=1).float())
            continue
        lengths = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
        if not lengths.all():
            raise DataError(
                f"pairs: {int((lengths == 0).sum())} of {len(lengths)} pairs have an embedding of length zero; there "
                f'is no cosine to it; use "metric": "euclidean"'
            )
        parts.append((1.0 - (one * other).sum(dim=1) / lengths).clamp(min=0.0).float())
    return torch.cat(parts)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and fields of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise DataError(f"evaluation_params.pairs_file: {path}: {reason}") from error
    # Where there are tabs, only they separate the fields: a name may contain spaces.
    fields = (line.strip().split("\t" if "\t" in line.strip() else None) for line in text.splitlines())
    return [(number, parts) for number, parts in enumerate(fields, start=1) if any(parts)]


def _header(path: Path, fields: list[str]) -> tuple[int, int]:
    """Number of folds, and of pairs of each kind in each."""
    numbers = [int(field) for field in fields if NUMBER.fullmatch(field.strip())]
    if len(numbers) != len(fields) or len(fields) not in (1, 2) or min(numbers) < 1:
        raise DataError(
            f"evaluation_params.pairs_file: {path}: the first line should hold the number of folds and of pairs of "
            f"each kind in a fold, such as '10 300', or the latter alone; got {_shown(fields)!r}"
        )
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (1, numbers[0])


def _parse(
    lines: Sequence[tuple[int, list[str]]], num_folds: int, num_each: int, problems: list[str]
) -> list[tuple[Image, Image]]:
    """The pairs that the lines after the first name; what is wrong with them is added to `problems`."""
    expected = 2 * num_folds * num_each
    if len(lines) != expected:
        what = f"{num_folds} x {num_each} genuine pairs and as many impostors"
        problems.append(f"expected {expected} lines after the first, {what}, got {len(lines)}")
    pairs: list[tuple[Image, Image]] = []
    for place, (number, fields) in enumerate(lines):
        # With a wrong number of lines, the position of a line does not say which kind it should be.
        is_genuine = place // num_each % 2 == 0 if len(lines) == expected else len(fields) == 3
        pair = _pair(fields, is_genuine)
        if pair is None:
            form = "a genuine pair, NAME 1 2" if is_genuine else "an impostor, NAME 1 OTHER_NAME 2"
            problems.append(f"line {number}: expected {form}, got {_shown(fields)}")
        else:
            pairs.append(pair)
    return pairs


def _pair(fields: Sequence[str], is_genuine: bool) -> tuple[Image, Image] | None:
    """Both images; None if the fields are no such pair."""
    if len(fields) != (3 if is_genuine else 4):
        return None
    name, number, other_name, other_number = (*fields[:2], fields[0] if is_genuine else fields[2], fields[-1])
    if not (name and other_name and NUMBER.fullmatch(number) and NUMBER.fullmatch(other_number)):
        return None
    one, other = (name, int(number)), (other_name, int(other_number))
    # A genuine pair has two different images; an impostor has two different names.
    is_contradiction = one == other if is_genuine else name == other_name
    return None if is_contradiction else (one, other)


def _shown(fields: Sequence[str]) -> str:
    """A line as messages show it: cut where it is too long to read."""
    text = " ".join(fields)
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


def _samples(images: Iterable[Image], folder: Path, suffix: str) -> list[Sample]:
    """The images in the order given; pids by sorted name, from 1."""
    images = list(images)
    pids = {name: pid for pid, name in enumerate(sorted({name for name, _ in images}), start=1)}
    return [Sample(folder / name / f"{name}_{number:04d}{suffix}", pids[name], 0) for name, number in images]
