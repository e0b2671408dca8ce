"""Corrections of the labels of training images: the CSV file that `label_fixes` names. No image is changed."""

import csv
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.layouts.layout import shortened
from data.samples import Dataset, Sample
from utils.errors import DataError
from utils.files import atomic_path

COLUMNS = ("path", "action", "pid", "new_pid", "reason", "score")
NEEDED = COLUMNS[:4]
ACTIONS = ("move", "split", "drop", "merge")
"""move: the image shows another identity of the training set; split: it shows an identity that has no images yet;
drop: the image is left out; merge: all images of `pid` show `new_pid`."""


class Fix(NamedTuple):
    """One line of the file."""

    path: str
    """Of the image, relative to the folder of the data set; "" for "merge"."""
    action: str
    """One of `ACTIONS`."""
    pid: int
    """The identity by the data set."""
    new_pid: int | None
    """The right identity; None for "drop"."""
    reason: str = ""
    """For readers; not used."""
    score: float = 1.0
    """How sure it is, 0..1, for readers; not used."""


def write_fixes(path: Path, fixes: Sequence[Fix]) -> None:
    """Write the file; raises DataError if that is not possible."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((*fix[:-1], f"{fix.score:.3f}") for fix in fixes)


def holds_fixes(path: Path, fixes: Sequence[Fix]) -> bool:
    """Whether the file has these lines and no others, whatever their reasons and scores.

    Raises:
        DataError: there is no such file, or it is none of corrections.
    """
    return [*_read(path)[0].values()] == [fix._replace(reason="", score=1.0) for fix in fixes]


def apply_fixes(dataset: Dataset, path: Path, root: Path) -> Dataset:
    """Correct the labels of `train` and `val`: first those of single images, then the merged identities.

    Args:
        dataset: as read from its folder.
        path: the file.
        root: the folder of the data set.

    Raises:
        DataError: the file cannot be read, or lines of it do not fit the data set or each other.
    """
    lines, problems = _read(path)
    problems |= _misfits(lines, dataset, root) if not problems else {}
    if problems:
        texts = [f"{path}, line {number}: {text}" for number, text in sorted(problems.items())]
        listing = texts[0] if len(texts) == 1 else f"{len(texts)} lines do not fit:\n{shortened(texts)}"
        raise DataError(f"label_fixes: {listing}")
    of_image = {fix.path: fix for fix in lines.values() if fix.path}
    merged = {fix.pid: fix.new_pid for fix in lines.values() if fix.action == "merge"}

    def fixed(samples: Sequence[Sample]) -> list[Sample]:
        kept = []
        for sample in samples:
            fix = of_image.get(name_of(sample.path, root))
            pid = sample.pid if fix is None else fix.new_pid
            if pid is not None:
                kept.append(sample._replace(pid=merged.get(pid, pid)))
        return kept

    return dataset._replace(train=fixed(dataset.train), val=fixed(dataset.val))


def fixes_between(before: Sequence[Sample], after: Sequence[Sample], root: Path) -> list[Fix]:
    """The lines that turn the labels of some training images into others; images that are missing are dropped."""
    pid_of = {sample.path: sample.pid for sample in after}
    known = {sample.pid for sample in before}
    fixes = []
    for sample in before:
        name, pid = name_of(sample.path, root), pid_of.get(sample.path)
        if pid is None:
            fixes.append(Fix(name, "drop", sample.pid, None))
        elif pid != sample.pid:
            fixes.append(Fix(name, "move" if pid in known else "split", sample.pid, pid))
    return fixes


def name_of(path: Path, root: Path) -> str:
    """An image in the file: its path relative to the folder of the data set, with forward slashes."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _read(path: Path) -> tuple[dict[int, Fix], dict[int, str]]:
    """The fixes by line, and what is wrong with other lines.

    Raises:
        DataError: there is no such file, it cannot be read, or it has no such columns.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in NEEDED if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"label_fixes: {path}, line 1: lacks the columns {', '.join(missing)}; the first line must be "
                    f"{','.join(COLUMNS)}, of which the last two may be missing"
                )
            rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except OSError as error:
        raise DataError(f"label_fixes: {path}: cannot be read: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"label_fixes: {path}: not a CSV file: {error}") from error
    found, problems = {}, {}
    for number, row in rows:
        try:
            found[number] = _parsed(row)
        except ValueError as error:
            problems[number] = str(error)
    return found, problems


def _parsed(row: Mapping[str, str | None]) -> Fix:
    """A line of the file; raises ValueError with what is wrong with it."""
    path, action, pid, new_pid = (row[name] or "" for name in NEEDED)
    if action not in ACTIONS:
        nearest = difflib.get_close_matches(action, ACTIONS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"one of {', '.join(ACTIONS)} expected"
        raise ValueError(f"unknown action {action!r}; {hint}")
    if action == "merge" and path:
        raise ValueError("merge is about all images of pid; leave path empty")
    if action != "merge" and not path:
        raise ValueError(f"{action} is about one image; path is empty")
    if action == "drop" and new_pid:
        raise ValueError(f"drop leaves the image out; leave new_pid empty, got {new_pid!r}")
    return Fix(path, action, _pid(pid, "pid"), None if action == "drop" else _pid(new_pid, "new_pid"))


def _pid(text: str, column: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(f"{column} must be a whole number from 0 on, got {text!r}")
    return int(text)


def _misfits(lines: Mapping[int, Fix], dataset: Dataset, root: Path) -> dict[int, str]:
    """What is wrong with lines that do not fit the data set or each other."""
    labelled = {name_of(sample.path, root): sample.pid for sample in (*dataset.train, *dataset.val)}
    tested = {name_of(sample.path, root) for sample in (*dataset.query, *dataset.gallery)}
    trained = {sample.pid for sample in dataset.train}
    taken = {sample.pid for split in dataset for sample in split}
    merged = {fix.pid: number for number, fix in lines.items() if fix.action == "merge"}
    first: dict[str | int, int] = {}
    problems = {}
    for number, fix in lines.items():
        subject = fix.path or fix.pid
        before = first.setdefault(subject, number)
        if before != number:
            problems[number] = f"{subject} has a line already: line {before}"
        elif fix.path and fix.path not in labelled:
            what = "is a test image; only training images are changed" if fix.path in tested else "no such image"
            problems[number] = f"{fix.path}: {what}"
        elif fix.path and fix.pid != labelled[fix.path]:
            problems[number] = f"{fix.path} has pid {labelled[fix.path]}, not {fix.pid}; this file is for other labels"
        elif fix.action == "merge" and fix.pid not in trained:
            problems[number] = f"no training image has pid {fix.pid}"
        elif fix.new_pid == fix.pid:
            problems[number] = f"new_pid is the pid that it has already, {fix.pid}"
        elif fix.action == "split" and fix.new_pid in taken:
            problems[number] = f"pid {fix.new_pid} is taken; split needs a new one"
        elif fix.action in ("move", "merge") and fix.new_pid not in trained:
            problems[number] = f"no training image has pid {fix.new_pid}; for a new identity the action is split"
        elif fix.new_pid in merged and fix.action == "merge":
            problems[number] = f"pid {fix.new_pid} is merged away by line {merged[fix.new_pid]}"
    return problems
