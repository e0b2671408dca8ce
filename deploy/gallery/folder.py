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
    """There is no such file any more, or it has changed and cannot be read."""
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
    """A batch of files, of which those that can be read are decoded."""

    items: list[Item]
    pixels: list[np.ndarray]
    unreadable: list[str]
    problems: list[str]


def synchronise(gallery: Gallery, folder: Path, predictor: Embedder) -> Changes:
    """Bring the gallery in line with the images in a folder and the folders below.

    New and changed files are embedded in batches, and each batch is on the disk when the next one begins: a later
    call goes on where one was stopped. Their suffixes tell images; hidden files and folders are left out. A name that
    begins as in Market-1501 tells the camera; the time is that of the file's last change. Crops of a stream stay as
    they are, also where a file has the same name: that file is left out, as are files that cannot be read, and
    warnings name both.

    Raises:
        DataError: the folder cannot be listed, or the disk is full.
    """
    known = {item.name: (id_, item.stamp) for id_, item in gallery.items().items()}
    crops = {name for name, (_, stamp) in known.items() if not stamp}
    with readable(folder):
        files = {item.name: item for item in _images_below(folder)}
    _warn(folder, "are called like crops of a stream, and left out", [name for name in files if name in crops])
    gone = [id_ for name, (id_, _) in known.items() if name not in files and name not in crops]
    gallery.remove(gone)
    # By name: the ids of files that have changed.
    outdated = {
        name: known[name][0] for name in files if name in known and known[name][1] not in ("", files[name].stamp)
    }
    wanted = [item for name, item in files.items() if name not in known or name in outdated]

    num_embedded, num_replaced = 0, 0
    unreadable: list[str] = []
    problems: list[str] = []
    progress = tqdm(desc="embedding", total=len(wanted), unit="img", leave=False, disable=bars_hidden())
    with progress:
        for batch in _prepared(folder, wanted, predictor):
            if batch.pixels:
                vectors = predictor.embed(np.stack(batch.pixels))
                replaced = [outdated[item.name] for item in batch.items if item.name in outdated]
                gallery.remove(replaced)
                gallery.add(vectors, batch.items)
                num_embedded, num_replaced = num_embedded + len(vectors), num_replaced + len(replaced)
            unreadable += batch.unreadable
            problems += batch.problems
            progress.update(len(batch.items) + len(batch.unreadable))
    stale = [outdated[name] for name in unreadable if name in outdated]
    gallery.remove(stale)
    _warn(folder, "cannot be read, and are left out", problems)
    return Changes(num_embedded - num_replaced, num_replaced, len(gone) + len(stale), len(unreadable))


def _images_below(folder: Path) -> Iterator[Item]:
    """The images of a folder, then those of its subfolders; sorted. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                yield _item(path, folder)


def _item(path: Path, folder: Path) -> Item:
    """What is known of a file; one that is gone again, or a broken link, shows when it is read."""
    match = NAME.match(path.name)
    name, camid = path.relative_to(folder).as_posix(), int(match["camid"]) if match else 0
    try:
        status = path.stat()
    except OSError:
        return Item(name, camid, stamp="missing")
    return Item(name, camid, status.st_mtime, f"{status.st_size}:{status.st_mtime_ns}")


def _prepared(folder: Path, items: Sequence[Item], predictor: Embedder) -> Iterator[_Prepared]:
    """Batch by batch, decoded in threads while the caller embeds what came before."""

    def prepare(batch: Sequence[Item]) -> _Prepared:
        prepared = _Prepared([], [], [], [])
        for item in batch:
            try:
                prepared.pixels.append(predictor.prepare(folder / item.name))
            except DataError as error:
                prepared.unreadable.append(item.name)
                prepared.problems.append(str(error))
            else:
                prepared.items.append(item)
        return prepared

    size = predictor.batch_size
    return read_ahead(prepare, (items[first : first + size] for first in range(0, len(items), size)), depth=2)


def _warn(folder: Path, what: str, names: Sequence[str]) -> None:
    if names:
        logger.warning("%s: %d images %s:\n%s", folder, len(names), what, shortened(names))
