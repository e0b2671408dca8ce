"""What a layout is, and what several of them share."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data.images import IMAGE_SUFFIXES
from data.samples import Dataset, Sample
from utils.errors import DataError

MAX_NAMED = 10
"""Files that a message names; of the others it gives the number."""


class Layout(NamedTuple):
    """One way to arrange a data set in a folder."""

    is_in: Callable[[Path], bool]
    """Whether a folder contains anything that only this layout has."""
    read: Callable[[Path], Dataset]
    """The data set in a folder; any split may be missing."""
    description: str
    """Its folders and file names in one line."""
    read_test_list: Callable[[Path, str], Dataset] | None = None
    """As `read`, with the name of a test list; None where the layout has none to choose from."""


class ListFormat(NamedTuple):
    """The lines of a text file that lists images."""

    line: re.Pattern[str]
    """Pattern of a whole line with the groups "file", "pid" and, where cameras are known, "camid"."""
    suffix: str
    """What is appended to the name of the file."""
    example: str
    """A valid line."""


def images(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted; none where there is no such folder. Hidden files are left out.

    Images are recognised by suffix; a folder or a broken link of such a name is reported when it is decoded.
    """
    return sorted(path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted; none where there is no such folder. Hidden ones are left out.

    So are those named like an image, as asking for each image whether it is a folder takes long on a network drive.
    """
    return sorted(path for path in _visible(folder) if path.suffix.lower() not in IMAGE_SUFFIXES and path.is_dir())


def texts(folder: Path) -> list[Path]:
    """The files *.txt directly in a folder, sorted; none where there is no such folder. Hidden ones are left out."""
    return sorted(path for path in _visible(folder) if path.suffix == ".txt" and path.is_file())


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Turn errors of the file system within the block, such as a missing permission, into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: cannot be read: {error.strerror}; repair it or move it away"
        ) from error


def read_lists(lists: Sequence[tuple[Path, Path]], form: ListFormat) -> list[list[Sample]]:
    """The images of each list, sorted by path; none where the list or the folder does not exist.

    The pid is the number in the list plus one, since lists count from 0 and pid 0 denotes distractors.

    Args:
        lists: pairs of a list and the folder its images lie in.

    Raises:
        DataError: malformed lines or missing images; the message counts them and names the first.
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
    """The first items, one per line, and the number of the others."""
    lines = [f"  {item}" for item in items[:MAX_NAMED]]
    if len(items) > MAX_NAMED:
        lines.append(f"  and {len(items) - MAX_NAMED} more")
    return "\n".join(lines)


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, in no order; none where there is no such folder."""
    return [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def _read_list(path: Path, folder: Path, form: ListFormat, malformed: list[str]) -> list[Sample]:
    """The images of one list; malformed lines are added to `malformed`."""
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
