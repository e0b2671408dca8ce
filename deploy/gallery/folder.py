"""A gallery of the images in a folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from data.images import IMAGE_SUFFIXES
from data.layouts.layout import readable, shortened
from data.layouts.market import NAME
from data.read_ahead import read_ahead
from deploy.gallery.gallery import Gallery, Item
from utils.errors import DataError
from utils.logs import bars_hidden

logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """How many images of a folder were treated how."""

    added: int
    replaced: int
    """The file has changed; the image has a new id."""
    removed: int
    """There is no such file any more, or it cannot be read any more."""
    unreadable: int
    """Not in the gallery."""


class Embedder(Protocol):
    """What is needed of a `deploy.predictor.Predictor`."""

    batch_size: int

    def prepare(self, image: Path, /) -> np.ndarray:
        """A file as the network sees it, (H, W, 3) uint8; DataError if it cannot be read."""
        ...

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B, D) float32 of unit length."""
        ...


class _Prepared(NamedTuple):
    """A batch: what could be read, with its pixels, and what could not, with the reasons."""

    items: list[Item]
    pixels: list[np.ndarray]
    unreadable: list[Item]
    problems: list[str]


def synchronise(gallery: Gallery, folder: Path, predictor: Embedder) -> Changes:
    """Bring the gallery in line with the images in a folder and the folders below.

    New and changed files are embedded in batches, and each batch is on the disk when the next one begins: a later
    call goes on where one was stopped. Their suffixes tell images; hidden files and folders are left out. A name that
    begins as in Market-1501 tells the camera; the time is that of the file's last change. Crops of a stream stay as
    they are, also where a file has the same name: that file is left out, as are files that cannot be read, and a
    warning names both.

    Raises:
        DataError: the folder cannot be listed, or the disk is full.
    """
    files = {item.name: item for item in _listed(folder)}
    known = {item.name: (id_, item) for id_, item in gallery.items().items()}
    of_files = {name: both for name, both in known.items() if both[1].stamp}
    gone = [id_ for name, (id_, _) in of_files.items() if name not in files]
    gallery.remove(gone)
    changed = {name for name, (_, item) in of_files.items() if name in files and item != files[name]}
    to_embed = [item for item in files.values() if item.name in changed or item.name not in known]
    problems = [f"{name}: a crop of a stream has this name" for name in files if name in known and name not in of_files]
    num_added, num_replaced, num_lost = 0, 0, 0
    with tqdm(desc="embedding", total=len(to_embed), unit="img", leave=False, disable=bars_hidden()) as progress:
        for prepared in _prepared(folder, to_embed, predictor):
            vectors = predictor.embed(np.stack(prepared.pixels)) if prepared.items else None
            outdated = changed.intersection(item.name for item in (*prepared.items, *prepared.unreadable))
            gallery.remove([of_files[name][0] for name in sorted(outdated)])
            if vectors is not None:
                gallery.add(vectors, prepared.items)
            num_again = len(outdated.intersection(item.name for item in prepared.items))
            num_added += len(prepared.items) - num_again
            num_replaced += num_again
            num_lost += len(outdated) - num_again
            problems += prepared.problems
            progress.update(len(prepared.items) + len(prepared.unreadable))
    if problems:
        logger.warning("%s: %d images are not in the gallery:\n%s", folder, len(problems), shortened(problems))
    return Changes(num_added, num_replaced, len(gone) + num_lost, len(problems))


def _prepared(folder: Path, items: Sequence[Item], predictor: Embedder) -> Iterator[_Prepared]:
    """The images of a batch after the other, decoded in threads while the batch before is embedded."""

    def prepare(batch: Sequence[Item]) -> _Prepared:
        prepared = _Prepared([], [], [], [])
        for item in batch:
            try:
                prepared.pixels.append(predictor.prepare(folder / item.name))
                prepared.items.append(item)
            except DataError as error:
                prepared.unreadable.append(item)
                prepared.problems.append(str(error))
        return prepared

    size = predictor.batch_size
    return read_ahead(prepare, (items[first : first + size] for first in range(0, len(items), size)), depth=2)


def _listed(folder: Path) -> Iterator[Item]:
    """The image files in a folder and those below it, sorted; links to folders are not followed."""
    with readable(folder):
        for root, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(root, name)
                if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                    yield _item(folder, path)


def _item(folder: Path, path: Path) -> Item:
    status = path.stat()
    name = NAME.match(path.name)
    camid = int(name["camid"]) if name else 0
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    return Item(path.relative_to(folder).as_posix(), camid, status.st_mtime, stamp)


def _raise(error: OSError) -> None:
    raise error
