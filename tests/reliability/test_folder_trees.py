"""Any folder tree is read as a data set by the rules of its layout, or refused with one message."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.layouts import LayoutChoice, detect_layout, read_layout
from data.samples import UNKNOWN_PID
from tests.data.layouts.test_every_layout import TREES
from tests.reliability.rights import closed, open_folder
from utils.errors import DataError, UserError


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Files = Mapping[str, str | Link]
"""Paths and what lies there: the text of a file, or a link."""


def build(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content.target)
            else:
                path.write_bytes(os.fsencode(content))
        except OSError:  # the name is taken by another kind of thing, or leads through a link
            continue
    return root


# Names of any script, also with bytes that are not text, and some that a layout gives a meaning.
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), st.sampled_from(" -._\n\udc80\udcff0123456789")
)
NAMES = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=10).filter(lambda name: name.strip(".") != ""),
    st.sampled_from(["-1_c1.jpg", "0007_c2s1.png", "7_c9.JPEG", "²_c٣.jpg", f"{10**20}_c1.jpg", "query", "train"]),
    st.sampled_from(["bounding_box_test", "image_query", "mask_test_v2", "image", "list_query.txt", "train_list.txt"]),
)
LINES = st.sampled_from(
    ["0000001 3", "0000/0000_000_14_0303morning_0008_0.jpg 0", "../../etc/passwd 1", "/etc/passwd 2", "a/../../b -1"]
)
CONTENTS = st.one_of(
    st.just(""),
    st.lists(st.one_of(LINES, st.text(CHARACTERS, max_size=12)), max_size=3).map("\n".join),
    st.sampled_from([".", "..", "../..", "loop.jpg", "nowhere", "/etc/passwd", "query"]).map(Link),
)
FILES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), CONTENTS, max_size=8)


def check_read(root: Path, layout: LayoutChoice) -> None:
    """It is a data set in order, of files inside the root, or refused with a message."""
    try:
        dataset = read_layout(root, layout)
    except UserError as error:
        assert str(error)  # noqa: PT017
        return
    assert any(dataset)
    for split in dataset:
        assert split == sorted(split)
        for sample in split:
            assert ".." not in sample.path.relative_to(root).parts
            assert os.path.lexists(sample.path)
            assert UNKNOWN_PID <= sample.pid < 2**63
            assert 0 <= sample.camid < 2**63


@given(name=st.sampled_from([*TREES, None]), strange=FILES)
def test_any_tree_is_a_data_set_or_one_message(name: str | None, strange: Files) -> None:
    """A complete tree of a layout with something added or replaced; or nothing but strange files."""
    usual: Files = {} if name is None else TREES[name].train | TREES[name].test
    with tempfile.TemporaryDirectory() as folder:
        # Deep enough that no chain of links upwards leads out of the temporary folder.
        root = build(Path(folder, *"abcdef") / "set", {**usual, **strange})
        for layout in get_args(LayoutChoice):
            check_read(root, layout)


@pytest.mark.parametrize("layout", get_args(LayoutChoice))
def test_a_root_that_is_no_folder_is_named(layout: LayoutChoice, tmp_path: Path) -> None:
    root = build(tmp_path, {"file": "", "loop": Link("loop"), "dangling": Link("nowhere")})
    os.mkfifo(root / "pipe")
    for name in ("file", "loop", "dangling", "pipe", "missing", "null\0", "x" * 300):
        with pytest.raises(
            DataError, match=rf"^{re.escape(str(root / name))}: (no such folder; set batches_dir|.*File name too long)"
        ):
            read_layout(root / name, layout)


CLOSED: dict[str, tuple[Files, str]] = {
    "market": ({"query/0001_c1.jpg": ""}, "query"),
    "veri": ({"image_query/0001_c1.jpg": ""}, "image_query"),
    "msmt": ({"list_train.txt": "", "train/a/1.jpg": ""}, "list_train.txt"),
    "vehicleid": ({"image/1.jpg": "", "train_test_split/train_list.txt": "1 1"}, "image"),
    "folders": ({"anna/1.jpg": ""}, "anna"),
}


@pytest.mark.parametrize("layout", CLOSED)
def test_what_may_not_be_read_is_named(layout: str) -> None:
    files, inside = CLOSED[layout]
    with open_folder() as folder:
        root = build(folder / "a", files)
        for shut, read in (
            (root, read_layout),
            (root / inside, read_layout),
            (root, lambda root, _: detect_layout(root)),
        ):
            with closed(shut), pytest.raises(DataError, match=rf"^{shut}(/.*)?: cannot be read: Permission denied"):
                read(root, layout)


def test_links_are_followed(tmp_path: Path) -> None:
    # A folder of links to one store of images is common, and so is a split on another disk.
    store = build(tmp_path / "store", {"0001_c1.jpg": "", "0002_c2.jpg": ""})
    root = tmp_path / "a"
    build(root, {"query/0001_c1.jpg": Link(str(store / "0002_c2.jpg")), "bounding_box_train": Link("../store")})
    dataset = read_layout(root)
    assert [sample.path.relative_to(root).as_posix() for split in dataset for sample in split] == [
        "bounding_box_train/0001_c1.jpg",
        "bounding_box_train/0002_c2.jpg",
        "query/0001_c1.jpg",
    ]
    assert [sample.pid for sample in dataset.query] == [1]
