"""Layouts: how a folder of images tells who is who. Each reader returns a Dataset, sorted by path."""

import logging
import re
from pathlib import Path
from typing import Literal

from data.images import IMAGE_SUFFIXES
from data.samples import JUNK_PID, Dataset, Sample
from utils.errors import DataError

logger = logging.getLogger(__name__)

Layout = Literal["market", "folders"]

MARKET_NAME = re.compile(r"(?P<pid>-?\d+)_c(?P<camid>\d+)")
MARKET_SPLITS = ("bounding_box_train", "query", "bounding_box_test")
FOLDER_SPLITS = ("train", "query", "gallery")


def read_layout(root: Path, layout: Literal["auto", "market", "folders"] = "auto") -> Dataset:
    """Read the data set in `root`.

    Raises:
        DataError: the folder is missing, is of no known layout, holds a wrongly named image or no training image.
    """
    if not root.is_dir():
        raise DataError(f'{root}: no such folder; set batches_dir to your data set, or to "synthetic"')
    readers = {"market": read_market, "folders": read_folders}
    dataset = readers[detect_layout(root) if layout == "auto" else layout](root)
    if not dataset.train:
        raise DataError(f"{root}: no training images found ({_expected(layout)})")
    return dataset


def detect_layout(root: Path) -> Layout:
    """ "market" if Market-1501's training folder is there, "folders" if any other subfolder is."""
    if (root / MARKET_SPLITS[0]).is_dir():
        return "market"
    if any(entry.is_dir() for entry in root.iterdir()):
        return "folders"
    raise DataError(f"{root}: no data set in this folder ({_expected('auto')})")


def read_market(root: Path) -> Dataset:
    """Market-1501: bounding_box_train, query and bounding_box_test with files named 0002_c1s1_000451_03.jpg.

    The number before "_c" is the pid (-1 junk, 0 distractor), the one after it the camera. Anything behind is free.
    """
    train, query, gallery = (
        [_market_sample(path) for path in _images(root / split)] if (root / split).is_dir() else []
        for split in MARKET_SPLITS
    )
    persons = [sample for sample in train if sample.pid != JUNK_PID]
    if len(persons) < len(train):
        logger.info("%s: %d junk images (pid -1) are not trained on", root, len(train) - len(persons))
    return Dataset(persons, query, gallery)


def read_folders(root: Path) -> Dataset:
    """One folder per identity: root/NAME/*.jpg, or root/{train,query,gallery}/NAME/*.jpg.

    The pid is the name's place, from 1, among all names in sorted order. Such a tree does not know cameras: training
    and query images get camid 0, gallery images 1, so that the cross-camera rule ignores nothing.
    """
    has_splits = (root / FOLDER_SPLITS[0]).is_dir()
    splits = [root / split for split in FOLDER_SPLITS] if has_splits else [root]
    names = sorted({entry.name for split in splits if split.is_dir() for entry in split.iterdir() if entry.is_dir()})
    pids = {name: place for place, name in enumerate(names, start=1)}

    def samples(split: Path, camid: int) -> list[Sample]:
        present = [name for name in names if (split / name).is_dir()]
        return [Sample(path, pids[name], camid) for name in present for path in _images(split / name)]

    if not has_splits:
        return Dataset(samples(root, 0), [], [])
    return Dataset(samples(splits[0], 0), samples(splits[1], 0), samples(splits[2], 1))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _market_sample(path: Path) -> Sample:
    name = MARKET_NAME.match(path.name)
    if name is None:
        raise DataError(f"{path}: the name does not begin like 0002_c1, which would say identity 2, camera 1")
    return Sample(path, int(name["pid"]), int(name["camid"]))


def _expected(layout: str) -> str:
    market = f"Market-1501 layout: {', '.join(MARKET_SPLITS)} with images named 0002_c1s1_000451_03.jpg"
    folders = "one folder per identity, at the top or under train, query and gallery"
    return {"market": market, "folders": folders}.get(layout, f"{market}; or {folders}")
