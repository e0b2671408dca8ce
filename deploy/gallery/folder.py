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
    """Numbers of images."""

    added: int
    replaced: int
    """The file has changed; the image has a new id."""
    removed: int
    """The file no longer exists, or has changed and cannot be read."""
    unreadable: int
    """Not in the gallery."""


def synchronise(gallery: Gallery, folder: Path, predictor: Predictor) -> Changes:
    """Update the gallery to the images in a folder and its subfolders.

    New and changed files are embedded in batches, and each batch is on disk before the next one: if it is interrupted,
    the next call continues. Images are recognised by suffix; hidden files and folders are skipped. A name that begins
    as in Market-1501 gives the camera; the time is that of the file's last change. Uploaded images stay, also if a
    file has the same name: that file is skipped with a warning, and so are unreadable files.

    Raises:
        DataError: the folder cannot be listed, or the disk is full.
    """
    known = {item.name: (id_, item.stamp) for id_, item in gallery.items().items()}
    uploaded = {name for name, (_, stamp) in known.items() if not stamp}
    with readable(folder):
        files = {item.name: item for item in _images_below(folder)}
    _warn(folder, "have the names of uploaded images, and are left out", [name for name in files if name in uploaded])
    gone = [id_ for name, (id_, _) in known.items() if name not in files and name not in uploaded]
    gallery.remove(gone)
    # By name: the ids of files that have changed.
    outdated = {
        name: known[name][0] for name in files if name in known and known[name][1] not in ("", files[name].stamp)
    }
    wanted = [item for name, item in files.items() if name not in known or name in outdated]

    num_embedded, num_replaced, num_stale = 0, 0, 0
    problems: list[str] = []
    with tqdm(desc="embedding", total=len(wanted), unit="img", leave=False, disable=bars_hidden()) as progress:
        for batch in embed_batches(predictor, (folder / item.name for item in wanted)):
            items = [wanted[number] for number in batch.numbers]
            replaced = [outdated[item.name] for item in items if item.name in outdated]
            stale = [outdated[name] for number in batch.errors if (name := wanted[number].name) in outdated]
            gallery.remove([*replaced, *stale])
            gallery.add(batch.vectors, items)
            num_embedded, num_replaced = num_embedded + len(items), num_replaced + len(replaced)
            num_stale += len(stale)
            problems += [str(error) for error in batch.errors.values()]
            progress.update(len(items) + len(batch.errors))
    _warn(folder, "cannot be read, and are left out", problems)
    return Changes(num_embedded - num_replaced, num_replaced, len(gone) + num_stale, len(problems))


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
