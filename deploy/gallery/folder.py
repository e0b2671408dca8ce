"""A gallery of the images in a folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.images import IMAGE_SUFFIXES
from data.layouts.layout import readable, shortened
from data.layouts.market import NAME
from deploy.gallery.gallery import Gallery, Item
from deploy.predictor import Predictor, embed_batches
from utils.logs import bars_hidden

logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """Numbers of images; one whose file has changed is removed, and added under a new id."""

    added: int
    removed: int
    unreadable: int


def synchronise(gallery: Gallery, folder: Path, predictor: Predictor) -> Changes:
    """Update the gallery to the images in a folder and its subfolders.

    New and changed files are embedded in batches, and each batch is stored before the next one: if it is interrupted,
    the next call continues. Images are recognised by suffix; hidden files and folders are skipped. A name that begins
    as in Market-1501 gives the camera; the time is that of the file's last change. Uploaded images stay, also if a
    file has the same name: that file is skipped with a warning, and so are unreadable files.

    Raises:
        DataError: the folder cannot be listed, or the gallery cannot be written.
    """
    known = gallery.items()
    with readable(folder):
        files = {item.name: item for item in _images_below(folder)}
    stamps = {name: item.stamp for name, item in files.items()}
    outdated = [id_ for id_, item in known.items() if item.stamp and item.stamp != stamps.get(item.name)]
    gallery.remove(outdated)
    kept = {item.name for item in gallery.items().values()}
    clashing = [item.name for item in known.values() if not item.stamp and item.name in files]
    _warn(folder, "have the names of uploaded images, and are left out", clashing)
    wanted = [item for name, item in files.items() if name not in kept]
    num_added = 0
    problems: list[str] = []
    with tqdm(desc="embedding", total=len(wanted), unit="img", leave=False, disable=bars_hidden()) as progress:
        for batch in embed_batches(predictor, (folder / item.name for item in wanted)):
            num_added += len(gallery.add(batch.vectors, [wanted[number] for number in batch.numbers]))
            problems += map(str, batch.errors.values())
            progress.update(len(batch.numbers) + len(batch.errors))
    _warn(folder, "cannot be read, and are left out", problems)
    return Changes(num_added, len(outdated), len(problems))


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
    """The item of a file; a file that is missing by now, or a broken link, is reported when it is read."""
    match = NAME.match(path.name)
    name, camid = path.relative_to(folder).as_posix(), int(match["camid"]) if match else 0
    try:
        status = path.stat()
    except OSError:
        return Item(name, camid, stamp="missing")
    return Item(name, camid, status.st_mtime, f"{status.st_size}:{status.st_mtime_ns}")


def _warn(folder: Path, what: str, names: Sequence[str]) -> None:
    if names:
        logger.warning("%s: %d images %s:\n%s", folder, len(names), what, shortened(names))
