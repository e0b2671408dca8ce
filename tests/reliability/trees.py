"""Folder trees: how to make one, and how hypothesis draws those that a layout reads, mostly as they should be."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Link(NamedTuple):
    """A symbolic link."""

    target: str


class Pipe(NamedTuple):
    """A named pipe: who reads it waits."""


Node = str | Link | Pipe | Mapping[str, "Node"]
"""A file's text, or what else has a name in a folder; a mapping is a folder."""
Tree = Mapping[str, Node]


def build(root: Path, tree: Tree, *, backwards: bool) -> Path:
    """Make the folder; the order of creation is also that in which many file systems list it."""
    root.mkdir()
    for name, node in sorted(tree.items(), reverse=backwards):
        if isinstance(node, Link):
            (root / name).symlink_to(node.target)
        elif isinstance(node, Pipe):
            os.mkfifo(root / name)
        elif isinstance(node, str):
            (root / name).write_bytes(os.fsencode(node))
        else:
            build(root / name, node, backwards=backwards)
    return root


def weighted(usual: st.SearchStrategy[T], odd: st.SearchStrategy[T], weight: int) -> st.SearchStrategy[T]:
    """The usual, and once in about `weight` times the odd; one_of would not count a strategy twice."""
    return st.integers(1, weight).flatmap(lambda number: odd if number == weight else usual)


# Names of any script, also with bytes that are no text; ".", ".." and what a file system takes for a separator apart.
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
    st.sampled_from(" -._\n\udc80\udcff0123456789"),
)
NAMES = st.text(CHARACTERS, min_size=1, max_size=10).filter(lambda name: name.strip(".") != "")
SUFFIXES = st.sampled_from([".jpg", ".jpg", ".png", ".JPEG", ".txt", ""])
NUMBERS = st.one_of(
    st.integers(-2, 30).map(str), st.integers(0, 10**20).map(str), st.sampled_from(["-1", "0000", "²", "٣"])
)
# Most lead nowhere or round in a circle; some to a folder, a file, or out of the tree.
LINKS = st.sampled_from([".", "..", "../..", "loop.jpg", "nowhere", "/etc/passwd", "query", "train"]).map(Link)
ODD: st.SearchStrategy[Node] = st.one_of(LINKS, st.just(Pipe()), st.just({}))

LEAVES: st.SearchStrategy[Node] = weighted(st.just(""), ODD, 4)
PIDS = st.sampled_from(["-1", "0000", "0007", "7"])
GOOD_NAMES = st.tuples(PIDS, st.integers(0, 9), NAMES).map(lambda parts: "{}_c{}s{}.jpg".format(*parts))
DOUBTFUL_NAMES = st.tuples(NUMBERS, NUMBERS, NAMES, SUFFIXES).map(lambda parts: "{}_c{}{}{}".format(*parts))
ANY_NAMES = st.tuples(NAMES, SUFFIXES).map(lambda parts: "".join(parts))
ANY_FILES = st.dictionaries(ANY_NAMES, LEAVES, max_size=3)
GOOD_FILES = st.dictionaries(GOOD_NAMES, LEAVES, max_size=4)
BAD_FILES = st.one_of(st.dictionaries(DOUBTFUL_NAMES, LEAVES, max_size=4), ANY_FILES)
MARKET_FILES = weighted(GOOD_FILES, BAD_FILES, 8)
ANY_FOLDERS = st.dictionaries(NAMES, st.one_of(ANY_FILES, st.dictionaries(NAMES, ANY_FILES, max_size=2)), max_size=3)

MSMT_FILES = [f"000{place}_00{place}_0{place + 1}_noon_{place}.jpg" for place in range(3)]
MSMT_PATHS = [f"000{place}/{name}" for place, name in enumerate(MSMT_FILES)]
VEHICLES = ["0000001", "0000002", "-3"]
OUTSIDE = [
    "../../etc/passwd",
    "../0000/0000_000_01_a.jpg",
    "/etc/passwd",
    "a/../../b",
    "~/a.jpg",
    f"0000/{'0_0_1_' * 60}",
]
ABSENT = Link("")


def lists(files: list[str]) -> st.SearchStrategy[str]:
    """Texts of lists: mostly lines as they should be; at times one that leads elsewhere or means nothing."""
    listed = st.builds("{} {}".format, st.sampled_from(files), st.integers(0, 9))
    doubtful = st.builds("{} {}".format, st.sampled_from([*files, *OUTSIDE]), NUMBERS)
    good = st.lists(listed, max_size=4)
    bad = st.lists(st.one_of(listed, doubtful, st.text(CHARACTERS, max_size=12)), min_size=1, max_size=3)
    return weighted(good, bad, 8).map("\n".join)


def mostly(folder: Mapping[str, st.SearchStrategy], weight: int) -> st.SearchStrategy[Tree]:
    """A folder of these things, now and then without one, or with something else under its name."""
    things = {name: weighted(thing, st.one_of(st.just(ABSENT), ODD), weight) for name, thing in folder.items()}
    return st.fixed_dictionaries(things).map(
        lambda drawn: {name: node for name, node in drawn.items() if node is not ABSENT}
    )


def files(names: list[str]) -> st.SearchStrategy[Tree]:
    return mostly(dict.fromkeys(names, st.just("")), 30)


MSMT_FOLDER = mostly({f"000{place}": files([name]) for place, name in enumerate(MSMT_FILES)}, 30)
TREES: dict[str, st.SearchStrategy[Tree]] = {
    "market": mostly(dict.fromkeys(("bounding_box_train", "query", "bounding_box_test"), MARKET_FILES), 8),
    "veri": mostly(dict.fromkeys(("image_train", "image_query", "image_test"), MARKET_FILES), 8),
    "msmt": mostly(
        dict.fromkeys([f"list_{name}.txt" for name in ("train", "val", "query", "gallery")], lists(MSMT_PATHS))
        | dict.fromkeys(("mask_train_v2", "mask_test_v2", "train", "test"), MSMT_FOLDER),
        10,
    ),
    "vehicleid": mostly(
        {
            "image": files([f"{name}.jpg" for name in VEHICLES]),
            "train_test_split": mostly(
                dict.fromkeys(
                    ("train_list.txt", "test_list_800.txt", "test_list_2400.txt", "._a.txt"), lists(VEHICLES)
                ),
                5,
            ),
        },
        10,
    ),
    "folders": st.one_of(ANY_FOLDERS, mostly(dict.fromkeys(("train", "query", "gallery", "val"), ANY_FOLDERS), 8)),
}
ANY_TREES = st.one_of(
    *TREES.values(), st.builds(lambda first, second: {**first, **second}, st.one_of(*TREES.values()), ANY_FOLDERS)
)
