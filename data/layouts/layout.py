"""What every layout is made of, and what several share."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data.images import IMAGE_SUFFIXES
from data.samples import Dataset, Sample
from utils.errors import DataError

MAX_NAMED = 10
"""Files that a message names; of the others it tells the number."""


class Layout(NamedTuple):
    """One way to arrange a data set.

    is_in: whether a folder has anything that only this layout has; read: the data set in it, where any split may be
    missing; description: its folders and names in one line.
    """

    is_in: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    description: str


class ListFormat(NamedTuple):
    """The lines of a text file that lists images.

    line: pattern of a whole line with the groups "file", "pid" and, where cameras are known, "camid";
    suffix: what the file's name lacks; example: a line as it should be.
    """

    line: re.Pattern[str]
    suffix: str
    example: str


def images(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted; none where there is no such folder. Hidden files are left out.

    Their suffixes tell them. Whether each is a file, and no folder or broken link, shows when it is decoded.
    """
    return sorted(path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted; none where there is no such folder. Hidden ones are left out."""
    return sorted(path for path in _visible(folder) if path.is_dir())


def texts(folder: Path) -> list[Path]:
    """The files *.txt directly in a folder, sorted; none where there is no such folder. Hidden ones are left out."""
    return sorted(path for path in _visible(folder) if path.suffix == ".txt" and path.is_file())


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Reads a data set's folder.

    Raises:
        DataError: what the file system refuses, such as a folder that may not be listed.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: cannot be read: {error.strerror}; mend it or move it away"
        ) from error


def read_lists(lists: Sequence[tuple[Path, Path]], form: ListFormat) -> list[list[Sample]]:
    """The images that each list names, sorted by path; a list or folder that does not exist gives none.

    A pid is the list's number plus one: such lists count from 0, which here marks distractors.

    Args:
        lists: pairs of a list and the folder its images lie in.

    Raises:
        DataError: lines of another form or images that do not exist; the message counts all and names the first.
    """
    malformed: list[str] = []
    splits = [_read_list(path, folder, form, malformed) if folder.is_dir() else [] for path, folder in lists]
    missing = [str(sample.path) for samples in splits for sample in samples if not sample.path.is_file()]
    problems = []
    if malformed:
        problems.append(f'{len(malformed)} lines are not of the form "{form.example}":\n{shortened(malformed)}')
    if missing:
        problems.append(f"{len(missing)} images are listed, but not there:\n{shortened(missing)}")
    if problems:
        raise DataError(f"{lists[0][0].parent}: " + "\n".join(problems))
    return splits


def shortened(items: Sequence[str]) -> str:
    """The first few of many, one a line, and how many more there are."""
    lines = [f"  {item}" for item in items[:MAX_NAMED]]
    if len(items) > MAX_NAMED:
        lines.append(f"  and {len(items) - MAX_NAMED} more")
    return "\n".join(lines)


def _visible(folder: Path) -> list[Path]:
    """What lies directly in a folder and is not hidden, in no order; nothing where there is no such folder."""
    return [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def _read_list(path: Path, folder: Path, form: ListFormat, malformed: list[str]) -> list[Sample]:
    """The images of one list; lines that are not of its form are added to `malformed`."""
    if not path.is_file():
        return []
    samples = []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = form.line.fullmatch(line.strip())
        if entry is None:
            malformed.append(f"{path}, line {number}: {line.strip()[:100]!r}")
            continue
        camid = int(entry.groupdict().get("camid", 0))
        samples.append(Sample(folder / (entry["file"] + form.suffix), int(entry["pid"]) + 1, camid))
    return sorted(samples)
