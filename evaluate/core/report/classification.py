"""The report of an image classification: every class's accuracy, and what is taken for what, with pictures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from evaluate.core.classification.accuracy import Classified
from evaluate.core.classification.confusion import confusion_counts, most_confused
from evaluate.core.report.blocks import (
    Block,
    Cell,
    Facts,
    Figure,
    Figures,
    ImageGroup,
    ImageGroups,
    Note,
    Report,
    Section,
    Shown,
    Table,
)
from evaluate.core.report.images import picture

MATRIX_CLASSES = 25
CONFUSIONS = 12
PICTURES_EACH = 6


class Confusion(NamedTuple):
    """A class taken for another one: indices of the two, and how many images this happened to."""

    true: int
    taken_for: int
    number: int


def confusions(found: Classified) -> list[Confusion]:
    """All that happened, the most frequent first; of equally frequent ones, the earlier classes first."""
    wrong = found.places > 0
    pairs = found.truth[wrong] * found.num_classes + found.predicted[wrong]
    kinds, counts = pairs.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return [
        Confusion(kind // found.num_classes, kind % found.num_classes, count)
        for kind, count in zip(kinds[order].tolist(), counts[order].tolist(), strict=True)
    ]


def surest_mistakes(found: Classified, confusion: Confusion, count: int) -> list[int]:
    """The images of a confusion to which the network gives the highest probability of the wrong class, as rows."""
    rows = ((found.truth == confusion.true) & (found.predicted == confusion.taken_for)).nonzero().flatten()
    return rows[found.confidence[rows].argsort(descending=True, stable=True)[:count]].tolist()


def classification_report(
    found: Classified, topk: Sequence[int], title: str, subtitle: str = "", facts: Sequence[tuple[str, str]] = ()
) -> Report:
    """The report of the images in `found`.

    Args:
        found: images, their classes and scores.
        topk: the k of each top-k accuracy.
        title, subtitle: of the report, such as the data set's name, and the model's.
        facts: further names and values: what was measured and how.
    """
    return Report(
        title,
        subtitle,
        (
            Section("Summary", "", (_figures(found, topk), _facts(found, facts))),
            Section("Confusions", *_confusions(found)),
            Section(
                "Classes",
                "Every class, the least often recognised first; beside it what its images are most often taken for.",
                (_class_table(found),),
            ),
        ),
    )


def _figures(found: Classified, topk: Sequence[int]) -> Figures:
    worst = found.worst_class
    notes = {1: f"{int((found.places == 0).sum())} of {len(found.samples)} images"}
    return Figures(
        (
            *(Figure(f"Top-{k}", f"{found.top(k):.2%}", notes.get(k, f"true class among the {k} best")) for k in topk),
            Figure("Mean class accuracy", f"{found.mean_class_accuracy:.2%}", "every class counts the same"),
            Figure("Worst class", f"{found.class_accuracy[worst]:.2%}", found.names[worst]),
        )
    )


def _facts(found: Classified, facts: Sequence[tuple[str, str]]) -> Facts:
    numbers = found.num_images[found.num_images > 0]
    least, most = int(numbers.min()), int(numbers.max())
    counts = [
        ("Images", f"{len(found.samples):,}"),
        ("Classes", f"{found.num_classes:,}"),
        ("Images of a class", f"{least:,} to {most:,}" if least < most else f"{most:,}"),
    ]
    if without := found.num_classes - len(numbers):
        counts.append(("Classes without images", f"{without}, left out of the means"))
    return Facts((*facts, *counts))


def _confusions(found: Classified) -> tuple[str, tuple[Block, ...]]:
    """Text and blocks of the section."""
    pairs = confusions(found)[:CONFUSIONS]
    if not pairs:
        return "", (Note("Every image is recognised."), _matrix(found))
    text = (
        "The matrix shows the share of each class's images, by row, that is taken for each class. Below it are the "
        "most frequent confusions, with the images of which the network is surest; the number is the probability it "
        "gives to the wrong class."
    )
    groups = tuple(
        ImageGroup(
            f"{found.names[pair.true]} taken for {found.names[pair.taken_for]}",
            f"{pair.number} of {found.num_images[pair.true]} images",
            tuple(_shown(found, row) for row in surest_mistakes(found, pair, PICTURES_EACH)),
        )
        for pair in pairs
    )
    return text, (_matrix(found), ImageGroups(groups))


def _matrix(found: Classified) -> Table:
    classes = most_confused(found.truth, found.predicted, found.num_classes, MATRIX_CLASSES)
    table = confusion_counts(found.truth, found.predicted, found.num_classes, classes).tolist()
    names = [found.names[index] for index in classes.tolist()]
    is_part = len(names) < found.num_classes
    columns = [*names, "other"] if is_part else names
    rows = []
    for name, numbers in zip(names, table, strict=True):
        images = sum(numbers)
        cells = [
            Cell(f"{number / images:.0%}", number / images, f"{name} taken for {column}: {number} of {images} images")
            if number
            else Cell("")
            for column, number in zip(columns, numbers, strict=False)
        ]
        rows.append((Cell(name), *cells))
    caption = f"The {len(names)} of {found.num_classes} classes with most errors." if is_part else ""
    return Table("Confusion matrix", ("true class", *columns), tuple(rows), caption)


def _class_table(found: Classified) -> Table:
    """Classes by accuracy; those without images, of which nothing is known, come last."""
    errors = {pair.true: pair for pair in reversed(confusions(found))}
    rows = []
    for index in found.class_accuracy.nan_to_num(nan=torch.inf).argsort(stable=True).tolist():
        number = int(found.num_images[index])
        accuracy = float(found.class_accuracy[index])
        share = Cell(f"{accuracy:.1%}", accuracy) if number else Cell("–")
        confused = ""
        if pair := errors.get(index):
            confused = f"{found.names[pair.taken_for]} ({pair.number})"
        rows.append((Cell(found.names[index]), Cell(f"{number}"), share, Cell(confused)))
    return Table("", ("class", "images", "recognised", "most often taken for"), tuple(rows))


def _shown(found: Classified, row: int) -> Shown:
    path, confidence = found.samples[row].path, f"{float(found.confidence[row]):.0%}"
    true, taken_for = (found.names[int(classes[row])] for classes in (found.truth, found.predicted))
    hint = f"{path}, {true} taken for {taken_for} ({confidence})"
    shown = picture(path)
    return replace(shown, hint=hint + shown.hint, verdict="wrong", below=confidence)
