"""The layouts that are known, and which of them a folder has."""

from pathlib import Path
from typing import Literal, get_args

from data.layouts.folders import FOLDERS
from data.layouts.layout import Layout, readable, subfolders
from data.layouts.market import MARKET, VERI
from data.layouts.msmt import MSMT
from data.layouts.vehicleid import VEHICLEID, read_vehicleid
from data.samples import Dataset
from utils.errors import DataError, ParamsError

LayoutName = Literal["market", "veri", "msmt", "vehicleid", "folders"]
LayoutChoice = Literal["auto", LayoutName]
"""Values of data_layout."""
LAYOUTS: dict[LayoutName, Layout] = {
    "market": MARKET,
    "veri": VERI,
    "msmt": MSMT,
    "vehicleid": VEHICLEID,
    "folders": FOLDERS,
}


def read_layout(root: Path, layout: LayoutChoice = "auto", test_list: str = "") -> Dataset:
    """Read the data set in `root`. Whether it has the splits a purpose needs is for that purpose to check.

    Args:
        test_list: which of VehicleID's test lists is the gallery; "" = the largest of the usual ones.

    Raises:
        DataError: the folder is missing, cannot be read, is of no known layout, or holds no images or wrongly named or
            listed ones.
        ParamsError: there is no such test list.
    """
    with readable(root):
        if not root.is_dir():
            raise DataError(f'{root}: no such folder; set batches_dir to your data set, or to "synthetic"')
        name = detect_layout(root) if layout == "auto" else layout
        if test_list and name != "vehicleid":
            raise ParamsError(f'test_list: {test_list!r} is for the layout "vehicleid", but {root} is "{name}"; set ""')
        dataset = read_vehicleid(root, test_list) if test_list else LAYOUTS[name].read(root)
        if any(dataset):
            return dataset
        if inner := [folder.name for folder in subfolders(root) if _special_layouts(folder)]:
            raise DataError(f"{root}: no images found; set batches_dir to a data set inside it: {', '.join(inner)}")
        raise DataError(f"{root}: no images found; expected {describe_layouts(layout)}")


def detect_layout(root: Path) -> LayoutName:
    """The layout that a folder has something of; "folders" if it has subfolders of other names.

    Raises:
        DataError: it has something of several layouts, or no subfolders, or cannot be read.
    """
    with readable(root):
        found = _special_layouts(root)
        if len(found) > 1:
            raise DataError(f"{root}: looks like several layouts; set data_layout to one of: {', '.join(found)}")
        if found:
            return found[0]
        if FOLDERS.is_in(root):
            return "folders"
        raise DataError(f"{root}: no data set in this folder; expected {describe_layouts('auto')}")


def describe_layouts(layout: LayoutChoice) -> str:
    """What a folder of this layout holds, in words; "auto": a line for each layout."""
    if layout != "auto":
        return LAYOUTS[layout].description
    lines = (f"  {name}: {LAYOUTS[name].description}" for name in get_args(LayoutName))
    return "one of these layouts:\n" + "\n".join(lines)


def _special_layouts(root: Path) -> list[LayoutName]:
    """The layouts of public data sets that a folder has something of."""
    return [name for name, layout in LAYOUTS.items() if name != "folders" and layout.is_in(root)]
