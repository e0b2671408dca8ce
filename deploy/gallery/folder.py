"""A gallery of the images in a folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images import IMAGE_SUFFIXES
from data.layouts.layout import readable, shortened
from data.layouts.market import NAME
from deploy.gallery.gallery import Gallery, Item, NameTakenError, UnknownIdError
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
    file has the same name: that file is skipped with a warning, and so are unreadable files. A folder without images
    changes nothing. Several processes may do this at once.

    Raises:
        DataError: the folder cannot be listed, or the gallery cannot be written.
    """
    while True:
        try:
            return _synchronise(gallery, folder, predictor)
        except (NameTakenError, UnknownIdError):
            logger.info("%s: another process changes the gallery at the same time; comparing again", folder)


def _synchronise(gallery: Gallery, folder: Path, predictor: Predictor) -> Changes:
    known = {item.name: (id_, item.stamp) for id_, item in gallery.items().items()}
    with readable(folder):
        files = {item.name: item for item in _images_below(folder)}
    stamps = {name: item.stamp for name, item in files.items()}
    outdated = {name: id_ for name, (id_, stamp) in known.items() if stamp and stamp != stamps.get(name)}
    if outdated and not files:
        # It may not be mounted, or be that of a service which only reads the table.
        logger.warning("%s: has no images; the %d that the index has of it stay", folder, len(outdated))
        outdated = {}
    gallery.remove([*outdated.values()])
    uploaded = [name for name in files if name in known and not known[name][1]]
    _warn(folder, "have the names of uploaded images, and are left out", uploaded)
    wanted = [item for name, item in files.items() if name not in known or name in outdated]
    problems: list[str] = []
    with tqdm(desc="embedding", total=len(wanted), unit="img", leave=False, disable=bars_hidden()) as progress:
        for batch in embed_batches(predictor, (folder / item.name for item in wanted)):
            has_length = np.any(batch.vectors, axis=1)
            items = [wanted[number] for number in batch.numbers]
            gallery.add(batch.vectors[has_length], [*compress(items, has_length)])
            problems += map(str, batch.errors.values())
            problems += [f"{item.name}: its embedding is 0" for item in compress(items, ~has_length)]
            progress.update(len(batch.numbers) + len(batch.errors))
    _warn(folder, "cannot be used, and are left out", problems)
    return Changes(len(wanted) - len(problems), len(outdated), len(problems))


def _images_below(folder: Path) -> Iterator[Item]:
    """The images of a folder, then those of its subfolders; sorted. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in sorted(names)):
            if not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                match = NAME.match(path.name)
                taken, stamp = 0.0, "missing"  # by now, or a broken link: reported when it is read
                with suppress(OSError):
                    status = path.stat()
                    taken, stamp = status.st_mtime, f"{status.st_size}:{status.st_mtime_ns}"
                yield Item(path.relative_to(folder).as_posix(), int(match["camid"]) if match else 0, taken, stamp)


def _warn(folder: Path, what: str, names: Sequence[str]) -> None:
    if names:
        logger.warning("%s: %d images %s:\n%s", folder, len(names), what, shortened(names))
