"""Folder trees as strangers hand them over: every layout makes a data set of them by its rules, or one message."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

import pytest
from hypothesis import given, settings

from data.layouts import LayoutChoice, detect_layout, read_layout
from data.layouts.known import LayoutName
from data.samples import Dataset
from tests.reliability.rights import closed, open_folder
from tests.reliability.trees import ANY_TREES, OUTSIDE, TREES, Link, Pipe, Tree, build
from utils.errors import DataError, ParamsError, UserError


def outcome(root: Path, layout: LayoutChoice) -> Dataset | str:
    """A data set with paths relative to the root, or the message without the root."""
    try:
        dataset = read_layout(root, layout)
    except UserError as error:
        assert str(error)  # noqa: PT017
        return str(error).replace(str(root), "ROOT")
    assert any(dataset)
    for split in dataset:
        assert split == sorted(split)
        for sample in split:
            assert ".." not in sample.path.relative_to(root).parts
            assert os.path.lexists(sample.path)
            assert -1 <= sample.pid < 2**63
            assert 0 <= sample.camid < 2**63
    name = detect_layout(root) if layout == "auto" else layout
    RULES[name](root, dataset)
    return Dataset(*([sample._replace(path=sample.path.relative_to(root)) for sample in split] for split in dataset))


def check_named(root: Path, dataset: Dataset, splits: tuple[str, str, str]) -> None:
    """Every image of the folders is there, and its name begins with PID_cCAMID; no junk is trained on."""
    for number, (folder, split) in enumerate(zip(splits, dataset, strict=False)):
        for sample in split:
            pid, _, rest = sample.path.name.partition("_c")
            assert int(pid) == sample.pid
            assert rest.startswith((str(sample.camid), "0")) or not rest.isascii()
            assert int(re.split(r"\D", rest)[0]) == sample.camid
        files = os.listdir(root / folder) if (root / folder).is_dir() else []  # noqa: PTH208
        wanted = {
            name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in (".jpg", ".png", ".jpeg")  # noqa: PTH122
        }
        assert {sample.path.name for sample in split} == {
            name for name in wanted if number > 0 or not name.startswith("-1_")
        }
    assert dataset.val == []


def check_listed(root: Path, dataset: Dataset) -> None:
    """A list names each image, with its pid less one."""
    lines = {
        tuple(line.split()) for path in root.rglob("*.txt") if path.is_file() for line in path.read_bytes().splitlines()
    }
    numbers = {(os.fsdecode(line[0]).removesuffix(".jpg"), int(line[1].decode())) for line in lines if is_entry(line)}
    for split in dataset:
        for sample in split:
            folder = sample.path.parent
            name = sample.path.stem if folder.name == "image" else f"{folder.name}/{sample.path.stem}"
            assert (name, sample.pid - 1) in numbers
            assert sample.camid == (0 if folder.name == "image" else int(sample.path.name.split("_")[2]))
            assert sample.path.is_file()


def is_entry(line: tuple[bytes, ...]) -> bool:
    return len(line) == 2 and re.fullmatch(r"\d+", line[1].decode(errors="replace")) is not None


def check_folders(_: Path, dataset: Dataset) -> None:
    """A folder's name is an identity: the later in the alphabet, the higher its pid."""
    samples = [sample for split in dataset for sample in split]
    assert len({(sample.path.parent.name, sample.pid) for sample in samples}) == len({each.pid for each in samples})
    by_name = sorted(samples, key=lambda sample: sample.path.parent.name)
    assert [sample.pid for sample in by_name] == sorted(sample.pid for sample in samples)
    assert all(sample.pid > 0 for sample in samples)
    assert [
        {sample.camid for sample in split} - {camid} for split, camid in zip(dataset, (0, 0, 1, 0), strict=True)
    ] == [set()] * 4


RULES: dict[str, Callable[[Path, Dataset], None]] = {
    "market": lambda root, dataset: check_named(root, dataset, ("bounding_box_train", "query", "bounding_box_test")),
    "veri": lambda root, dataset: check_named(root, dataset, ("image_train", "image_query", "image_test")),
    "msmt": check_listed,
    "vehicleid": check_listed,
    "folders": check_folders,
}


def check(tree: Tree, layouts: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # So deep that links to folders above find the same there, each time.
        parents = [Path(folder) / way / "above" / "it" for way in ("forwards", "backwards")]
        for parent in parents:
            parent.mkdir(parents=True)
        roots = [build(parent / "set", tree, backwards="backwards" in parent.parts) for parent in parents]
        for layout in layouts:
            first, second = (outcome(root, cast(LayoutChoice, layout)) for root in roots)
            assert first == second


@pytest.mark.parametrize("layout", get_args(LayoutName))
def test_a_tree_of_a_layout_is_a_data_set_or_one_message(layout: str) -> None:
    @given(TREES[layout])
    @settings(max_examples=40, deadline=None)
    def run(tree: Tree) -> None:
        check(tree, (layout,))

    run()


@given(ANY_TREES)
@settings(max_examples=40, deadline=None)
def test_any_tree_is_a_data_set_or_one_message(tree: Tree) -> None:
    check(tree, get_args(LayoutChoice))


@pytest.mark.slow
@given(ANY_TREES)
@settings(max_examples=2_000, deadline=None)
def test_many_trees_are_data_sets_or_one_message(tree: Tree) -> None:
    check(tree, get_args(LayoutChoice))


@pytest.mark.parametrize("layout", get_args(LayoutChoice))
def test_a_root_that_is_no_folder_is_named(layout: LayoutChoice, tmp_path: Path) -> None:
    tree: Tree = {"file": "", "pipe": Pipe(), "loop": Link("loop"), "dangling": Link("nowhere")}
    root = build(tmp_path / "a", tree, backwards=False)
    for name in (*tree, "missing", "null\0", "x" * 300):
        with pytest.raises(DataError, match=rf"^{re.escape(str(root / name))}: (no such folder|.*File name too long)"):
            read_layout(root / name, layout)


CLOSED: dict[LayoutName, tuple[Tree, str]] = {
    "market": ({"query": {"0001_c1.jpg": ""}}, "query"),
    "veri": ({"image_query": {"0001_c1.jpg": ""}}, "image_query"),
    "msmt": ({"list_train.txt": "", "train": {}}, "list_train.txt"),
    "vehicleid": ({"image": {"1.jpg": ""}, "train_test_split": {"train_list.txt": "1 1"}}, "image"),
    "folders": ({"anna": {"1.jpg": ""}}, "anna"),
}


@pytest.mark.parametrize("layout", get_args(LayoutName))
@pytest.mark.parametrize("is_root", [True, False])
def test_what_may_not_be_read_is_named(layout: LayoutName, is_root: bool) -> None:
    tree, inside = CLOSED[layout]
    with open_folder() as folder:
        root = build(folder / "a", tree, backwards=False)
        shut = root if is_root else root / inside
        with (
            closed(shut),
            pytest.raises(DataError, match=rf"^{shut}(/.*)?: cannot be read: Permission denied; mend it"),
        ):
            read_layout(root, layout)
        with (
            closed(root),
            pytest.raises(DataError, match=rf"^{root}(/.*)?: cannot be read: Permission denied; mend it"),
        ):
            detect_layout(root)
        assert read_layout(root, layout) if layout != "msmt" else detect_layout(root) == "msmt"


def test_links_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    # A folder of links to one store of images is common, and so is a split that lies on another disk.
    store = build(tmp_path / "store", {"0001_c1.jpg": "", "0002_c2.jpg": ""}, backwards=False)
    tree: Tree = {"bounding_box_train": Link("../store"), "query": {"0001_c1.jpg": Link(str(store / "0002_c2.jpg"))}}
    root = build(tmp_path / "a", tree, backwards=False)
    dataset = read_layout(root)
    assert [sample.path.relative_to(root).as_posix() for split in dataset for sample in split] == [
        "bounding_box_train/0001_c1.jpg",
        "bounding_box_train/0002_c2.jpg",
        "query/0001_c1.jpg",
    ]
    assert [sample.pid for sample in dataset.query] == [1]


@pytest.mark.parametrize("line", OUTSIDE)
def test_a_list_leads_nowhere_out_of_its_folder(line: str, tmp_path: Path) -> None:
    text = f"{line} 1\n"
    vehicles: Tree = {"image": {}, "train_test_split": {"train_list.txt": text}}
    persons: Tree = {"list_train.txt": text, "list_val.txt": "", "train": {"0000": {}}}
    for name, tree in (("vehicles", vehicles), ("persons", persons)):
        with pytest.raises(DataError, match=r"1 lines are not of the form|File name too long"):
            read_layout(build(tmp_path / name, tree, backwards=False))


def test_only_files_in_sight_are_test_lists(tmp_path: Path) -> None:
    lists: Tree = {
        "._test_list_800.txt": "",
        "test_list_800.txt": {},
        "test_list_1600.txt": Link("gone"),
        "a.txt": Pipe(),
    }
    tree: Tree = {"image": {"1.jpg": ""}, "train_test_split": {"train_list.txt": "1 1", **lists}}
    root = build(tmp_path / "a", tree, backwards=False)
    assert [len(split) for split in read_layout(root)] == [1, 0, 0, 0]
    for name in lists:
        with pytest.raises(ParamsError, match="there are: none"):
            read_layout(root, test_list=name)
