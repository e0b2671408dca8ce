"""Market-1501 and data sets with its file names: DukeMTMC-reID, CUHK03 in its new protocol, VeRi-776."""

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.layouts.layout import Layout, images, shortened
from data.samples import JUNK_PID, Dataset, Sample
from utils.errors import DataError

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?P<pid>-1|\d{1,18})_c(?P<camid>\d{1,18})(?!\d)")
"""Beginning of a file name: the identity (-1 junk, 0 distractor) and the camera; the rest is free."""
MARKET_SPLITS = ("bounding_box_train", "query", "bounding_box_test")
VERI_SPLITS = ("image_train", "image_query", "image_test")


def read_named(root: Path, splits: Sequence[str]) -> Dataset:
    """A data set whose files are named like 0002_c1s1_000451_03.jpg: identity 2, camera 1.

    Args:
        splits: folders of the training, query and gallery images; any of them may be missing.

    Raises:
        DataError: images with other names; the message counts them and names the first.
    """
    paths = [images(root / split) for split in splits]
    if wrong := [str(path) for split in paths for path in split if NAME.match(path.name) is None]:
        raise DataError(
            f"{root}: the names of {len(wrong)} images do not begin like 0002_c1, which stands for identity "
            f"2, camera 1:\n{shortened(wrong)}"
        )
    train, query, gallery = ([_sample(path) for path in split] for split in paths)
    persons = [sample for sample in train if sample.pid != JUNK_PID]
    if len(persons) < len(train):
        logger.info("%s: %d junk images (pid -1) are excluded from training", root, len(train) - len(persons))
    return Dataset(persons, query, gallery, [])


def is_market(root: Path) -> bool:
    """Whether one of the folders exists; query, which other layouts have as well, only with images named like this."""
    has_boxes = any((root / split).is_dir() for split in MARKET_SPLITS if split != "query")
    return has_boxes or any(NAME.match(path.name) for path in images(root / "query"))


def _sample(path: Path) -> Sample:
    name = NAME.match(path.name)
    assert name is not None
    return Sample(path, int(name["pid"]), int(name["camid"]))


MARKET = Layout(
    is_market,
    partial(read_named, splits=MARKET_SPLITS),
    "bounding_box_train, query and bounding_box_test with images named like 0002_c1s1_000451_03.jpg",
)
VERI = Layout(
    lambda root: any((root / split).is_dir() for split in VERI_SPLITS),
    partial(read_named, splits=VERI_SPLITS),
    "image_train, image_query and image_test with images named like 0002_c002_00030600_0.jpg",
)
