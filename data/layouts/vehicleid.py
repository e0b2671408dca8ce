"""PKU VehicleID: one folder of images, and lists that say which vehicles are for training and which for tests."""

import logging
import re
from pathlib import Path

from data.layouts.layout import Layout, ListFormat, read_lists, texts
from data.samples import Dataset
from utils.errors import ParamsError

logger = logging.getLogger(__name__)

IMAGES = "image"
LISTS = "train_test_split"
TRAIN_LIST = "train_list.txt"
STANDARD_TEST_LISTS = ("test_list_2400.txt", "test_list_1600.txt", "test_list_800.txt")
"""The tests that papers report, the largest first; the number is that of the vehicles."""
FORM = ListFormat(re.compile(r"(?P<file>[\w-]+)(\.jpg)?\s+(?P<pid>\d{1,18})"), suffix=".jpg", example="0310742 12")


def read_vehicleid(root: Path, test_list: str = "") -> Dataset:
    """VehicleID: image/NAME.jpg, and lists in train_test_split for training and tests, each line a name and a vehicle.

    The test images are not split into query and gallery: all of them are gallery, from which an evaluation draws both.
    Cameras are unknown; every camid is 0.

    Args:
        test_list: name of the test list; "" = the largest of the standard ones that exists.

    Raises:
        DataError: malformed lines, or listed images that do not exist.
        ParamsError: there is no such test list, or none of the standard ones.

    Source: Liu et al. 2016, "Deep Relative Distance Learning: Tell the Difference Between Similar Vehicles", section 5.
    """
    chosen = _choose_test_list(root / LISTS, test_list)
    paths = [root / LISTS / TRAIN_LIST] + ([root / LISTS / chosen] if chosen else [])
    train, *tests = read_lists([(path, root / IMAGES) for path in paths], FORM)
    return Dataset(train, [], tests[0] if tests else [], [])


def _choose_test_list(folder: Path, test_list: str) -> str | None:
    """The name of the list to test on; None where the folder has no test lists."""
    present = [path.name for path in texts(folder) if path.name != TRAIN_LIST]
    if test_list:
        if test_list in present:
            return test_list
        raise ParamsError(f"test_list: no list {test_list!r} in {folder}; there are: {', '.join(present) or 'none'}")
    chosen = next((name for name in STANDARD_TEST_LISTS if name in present), None)
    if chosen is None and present:
        raise ParamsError(f"test_list: {folder} has none of the standard lists; choose one of: {', '.join(present)}")
    if chosen is not None:
        logger.info("%s: using the test images of %s", folder, chosen)
    return chosen


VEHICLEID = Layout(
    lambda root: (root / LISTS).is_dir(),
    read_vehicleid,
    "image, and train_test_split with train_list.txt and test_list_800.txt, test_list_1600.txt, test_list_2400.txt",
    read_test_list=read_vehicleid,
)
