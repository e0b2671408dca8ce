"""The known layouts, and the detection of the layout of a folder.

A new layout is a file in this package and an entry of LAYOUTS.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.layouts import folders, market, msmt, unlabelled, vehicleid
from data.layouts.layout import Layout, readable, subfolders
from data.samples import Dataset
from utils.errors import DataError, ParamsError

LAYOUTS: dict[str, Layout] = {
    "market": market.MARKET,
    "veri": market.VERI,
    "msmt": msmt.MSMT,
    "vehicleid": vehicleid.VEHICLEID,
    "folders": folders.FOLDERS,
    "unlabelled": unlabelled.UNLABELLED,
}
PLAIN = ("folders", "unlabelled")
"""Layouts of one's own data, which any folder of subfolders or of images has."""
if TYPE_CHECKING:
    LayoutChoice = str
else:
    LayoutChoice = Literal[("auto", *LAYOUTS)]
    """Values of data_layout."""


def read_layout(root: Path, layout: LayoutChoice = "auto", test_list: str = "") -> Dataset:
    """Read the data set in `root`; any split may be empty.

    Args:
        test_list: which of VehicleID's test lists is the gallery; "" = the largest of the standard ones.

    Raises:
        DataError: the folder is missing, cannot be read, is of no known layout, or has no images or wrongly named or
            listed ones.
        ParamsError: there is no such test list.
    """
    with readable(root):
        if not root.is_dir():
            raise DataError(f'{root}: no such folder; set batches_dir to your data set, or to "synthetic"')
        name = detect_layout(root) if layout == "auto" else layout
        dataset = _read(root, name, test_list)
        if any(dataset):
            return dataset
        if inner := [folder.name for folder in subfolders(root) if _special_layouts(folder)]:
            raise DataError(f"{root}: no images found; set batches_dir to a data set inside it: {', '.join(inner)}")
        raise DataError(f"{root}: no images found; expected {describe_layouts(layout)}")


def detect_layout(root: Path) -> str:
    """The layout of a folder; "folders" if it has subfolders that no other layout knows, "unlabelled" if only images.

    Raises:
        DataError: several layouts match, or the folder has no subfolders, or cannot be read.
    """
    with readable(root):
        found = _special_layouts(root)
        if len(found) > 1:
            raise DataError(f"{root}: looks like several layouts; set data_layout to one of: {', '.join(found)}")
        if found:
            return found[0]
        if plain := [name for name in PLAIN if LAYOUTS[name].is_in(root)]:
            return plain[0]
        raise DataError(f"{root}: no data set in this folder; expected {describe_layouts('auto')}")


def describe_layouts(layout: LayoutChoice) -> str:
    """What a folder of this layout contains; "auto": a line for each layout."""
    if layout != "auto":
        return LAYOUTS[layout].description
    lines = (f"  {name}: {known.description}" for name, known in LAYOUTS.items())
    return "one of these layouts:\n" + "\n".join(lines)


def _read(root: Path, name: str, test_list: str) -> Dataset:
    layout = LAYOUTS[name]
    if not test_list:
        return layout.read(root)
    if layout.read_test_list is None:
        able = " or ".join(f'"{each}"' for each, known in LAYOUTS.items() if known.read_test_list is not None)
        raise ParamsError(f'test_list: {test_list!r} is for the layout {able}, but {root} is "{name}"; set ""')
    return layout.read_test_list(root, test_list)


def _special_layouts(root: Path) -> list[str]:
    """The layouts of public data sets that match a folder."""
    return [name for name, layout in LAYOUTS.items() if name not in PLAIN and layout.is_in(root)]
