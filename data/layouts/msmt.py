"""MSMT17, in both its versions.

V2, with masked faces, replaced V1 in 2019, and results since then are measured on it. The folders are named
mask_train_v2 and mask_test_v2 (V1: train and test); the lists have the same form.
"""

import logging
import re
from pathlib import Path

from data.layouts.layout import Layout, ListFormat, read_lists
from data.samples import Dataset

logger = logging.getLogger(__name__)

LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
VERSIONS = (("mask_train_v2", "mask_test_v2"), ("train", "test"))
"""Folders of the training and test images, the newer version first."""
FORM = ListFormat(
    # The camera is the third field of the file's name.
    re.compile(r"(?P<file>\w+/[^\W_]+_[^\W_]+_(?P<camid>\d{1,18})_[\w.-]+)\s+(?P<pid>\d{1,18})"),
    suffix="",
    example="0000/0000_000_01_0303morning_0008_0.jpg 0",
)


def read_msmt(root: Path) -> Dataset:
    """MSMT17: four lists beside a folder of training and one of test images; either folder may be missing.

    list_val.txt shows training identities. The protocol, and every published result, trains on it as well: both lists
    together are 32,621 images of 1,041 identities.

    Raises:
        DataError: malformed lines, or listed images that do not exist.

    Source: Wei et al. 2018, arXiv 1711.08565, section 3.
    """
    present = [version for version in VERSIONS if any((root / folder).is_dir() for folder in version)]
    if len(present) > 1:
        logger.warning("%s: both versions of MSMT17 exist; the images of V2 are used", root)
    train_folder, test_folder = (root / folder for folder in (present or VERSIONS)[0])
    if train_folder.is_dir():
        for name in LISTS[:2]:
            if not (root / name).is_file():
                logger.warning("%s: %s is missing; training continues without its images", root, name)
    folders = (train_folder, train_folder, test_folder, test_folder)
    lists = [(root / name, folder) for name, folder in zip(LISTS, folders, strict=True)]
    train, val, query, gallery = read_lists(lists, FORM)
    return Dataset(sorted(train + val), query, gallery, [])


def is_msmt(root: Path) -> bool:
    """Whether any of the lists, or of the folders of V2, exists."""
    return any((root / name).is_file() for name in LISTS) or any((root / name).is_dir() for name in VERSIONS[0])


MSMT = Layout(
    is_msmt,
    read_msmt,
    "list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside mask_train_v2 and mask_test_v2 "
    "(V1: train and test)",
)
