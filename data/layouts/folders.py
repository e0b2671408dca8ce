"""One folder per identity or class, for your own data."""

import logging
from pathlib import Path

from data.layouts.layout import Layout, images, shortened, subfolders
from data.samples import Dataset, Sample

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery", "val")


def read_folders(root: Path) -> Dataset:
    """root/NAME/*.jpg, all for training; or root/{train,query,gallery,val}/NAME/*.jpg, any of which may be missing.

    The pid is the index of the name, from 1, among all names in sorted order. Cameras are unknown: gallery images get
    camid 1, all others 0, so that the cross-camera rule ignores nothing.
    """
    has_splits = any((root / split).is_dir() for split in SPLITS)
    folders = [root / split for split in SPLITS] if has_splits else [root]
    if has_splits and (others := [folder.name for folder in subfolders(root) if folder.name not in SPLITS]):
        logger.warning("%s: only %s are read; ignored: %s", root, ", ".join(SPLITS), ", ".join(others))
    identities = [folder for split in folders for folder in subfolders(split)]
    if deeper := [str(inner) for folder in identities for inner in subfolders(folder) if images(inner)]:
        logger.warning(
            "%s: images in folders inside those of identities are not read; if these are crops without labels, set "
            "data_layout to unlabelled:\n%s",
            root,
            shortened(deeper),
        )
    names = sorted({folder.name for folder in identities})
    pids = {name: place for place, name in enumerate(names, start=1)}

    def samples(split: Path, camid: int) -> list[Sample]:
        return [Sample(path, pids[folder.name], camid) for folder in subfolders(split) for path in images(folder)]

    if not has_splits:
        return Dataset(samples(root, 0), [], [], [])
    train, query, gallery, val = (samples(split, int(split.name == "gallery")) for split in folders)
    return Dataset(train, query, gallery, val)


FOLDERS = Layout(
    lambda root: bool(subfolders(root)),
    read_folders,
    "one folder per identity, at the top or under train, query, gallery and val",
)
