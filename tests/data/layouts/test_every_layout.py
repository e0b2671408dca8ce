"""What holds for every layout, and how a folder's layout is found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from data.layouts import LayoutChoice, describe_layouts, detect_layout, read_layout
from data.layouts.registry import LAYOUTS
from utils.errors import DataError, ParamsError

Plant = Callable[[Mapping[str, str]], Path]


class Tree(NamedTuple):
    """A small data set: the files of its training part and those of its test part, and what they give."""

    train: dict[str, str]
    test: dict[str, str]
    pids: tuple[list[int], list[int], list[int], list[int]]
    camids: tuple[list[int], list[int], list[int], list[int]]


TREES: dict[str, Tree] = {
    "market": Tree(
        {"bounding_box_train/0007_c2s1_000001_00.jpg": "", "bounding_box_train/0002_c1s1_000451_03.jpg": ""},
        {"query/0003_c1s1_000001_00.jpg": "", "bounding_box_test/0003_c6s1_000001_00.jpg": ""},
        ([2, 7], [3], [3], []),
        ([1, 2], [1], [6], []),
    ),
    "veri": Tree(
        {"image_train/0007_c020_00030600_0.jpg": "", "image_train/0001_c001_00016450_0.jpg": ""},
        {"image_query/0002_c002_00030600_0.jpg": "", "image_test/0002_c003_00030670_1.jpg": ""},
        ([1, 7], [2], [2], []),
        ([1, 20], [2], [3], []),
    ),
    "msmt": Tree(
        {
            "list_train.txt": "0001/0001_001_07_0303noon_0100_2.jpg 1\n0000/0000_000_01_0303morning_0008_0.jpg 0\n",
            "list_val.txt": "0000/0000_002_15_0303morning_0008_0.jpg 0\n",
            "mask_train_v2/0000/0000_000_01_0303morning_0008_0.jpg": "",
            "mask_train_v2/0000/0000_002_15_0303morning_0008_0.jpg": "",
            "mask_train_v2/0001/0001_001_07_0303noon_0100_2.jpg": "",
        },
        {
            "list_query.txt": "0000/0000_000_14_0303morning_0008_0.jpg 0\n",
            "list_gallery.txt": "0000/0000_001_05_0303morning_0008_0_ex.jpg 0\n",
            "mask_test_v2/0000/0000_000_14_0303morning_0008_0.jpg": "",
            "mask_test_v2/0000/0000_001_05_0303morning_0008_0_ex.jpg": "",
        },
        ([1, 1, 2], [1], [1], []),
        ([1, 15, 7], [14], [5], []),
    ),
    "vehicleid": Tree(
        {"train_test_split/train_list.txt": "0000002 9\n0000001 4\n", "image/0000001.jpg": "", "image/0000002.jpg": ""},
        {
            "train_test_split/test_list_800.txt": "0000004 6\n0000003 6\n",
            "image/0000003.jpg": "",
            "image/0000004.jpg": "",
        },
        ([5, 10], [], [7, 7], []),
        ([0, 0], [], [0, 0], []),
    ),
    "folders": Tree(
        {"train/zoe/1.png": "", "train/adam/1.jpg": ""},
        {"query/bea/1.jpg": "", "gallery/bea/2.jpg": "", "val/adam/2.jpg": ""},
        ([1, 3], [2], [2], [1]),
        ([0, 0], [0], [1], [0]),
    ),
    "unlabelled": Tree({"0007_c2s1_000001_00.jpg": "", "b.png": ""}, {}, ([-2, -2], [], [], []), ([2, 0], [], [], [])),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_complete_data_set(name: str, plant: Plant) -> None:
    tree = TREES[name]
    # What desktops and archive programs leave behind is not a data set's.
    litter = {str(Path(image).with_name(f"._{Path(image).name}")): "" for image in tree.train | tree.test}
    root = plant(tree.train | tree.test | litter | {".DS_Store": "", ".cache/anna/1.jpg": "", "readme.txt": "hello"})
    assert detect_layout(root) == name
    dataset = read_layout(root)
    assert tuple([sample.pid for sample in split] for split in dataset) == tree.pids
    assert tuple([sample.camid for sample in split] for split in dataset) == tree.camids
    for split in dataset:
        assert split == sorted(split)
        assert all(sample.path.is_file() for sample in split)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if TREES[name].test])
def test_either_part_of_a_data_set_is_one_too(name: str, plant: Plant, tmp_path: Path) -> None:
    tree = TREES[name]
    root = plant(tree.test)
    assert detect_layout(root) == name
    assert [bool(split) for split in read_layout(root)] == [False, *map(bool, tree.pids[1:])]
    root.rename(tmp_path / "test")
    root = plant(tree.train)
    assert detect_layout(root) == name
    assert [len(split) for split in read_layout(root)] == [len(tree.pids[0]), 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("market", ("bounding_box_train", "bounding_box_test", "query")),
        ("veri", ("image_train", "image_query", "image_test")),
        ("folders", ("train/a", "query/a", "gallery/a", "val/a")),
    ],
)
def test_any_one_folder_tells_the_layout(name: str, folders: Sequence[str], tmp_path: Path) -> None:
    for number, folder in enumerate(folders):
        path = tmp_path / str(number) / folder / "0002_c1.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
        assert detect_layout(tmp_path / str(number)) == name
        assert sum(len(split) for split in read_layout(tmp_path / str(number))) == 1


@pytest.mark.parametrize("layout", get_args(LayoutChoice))
def test_a_folder_without_images_is_refused_with_what_was_expected(layout: LayoutChoice, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_layout(tmp_path, layout)
    assert describe_layouts(layout) in str(caught.value)
    if layout == "auto":
        assert all(name in str(caught.value) for name in LAYOUTS)
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(DataError, match=r"no images found; expected"):
        read_layout(tmp_path, layout)


def test_of_two_layouts_the_user_chooses(plant: Plant) -> None:
    root = plant(TREES["market"].train | TREES["msmt"].train)
    with pytest.raises(DataError, match=r"several layouts; set data_layout to one of: market, msmt"):
        read_layout(root)
    assert len(read_layout(root, "market").train) == 2
    assert len(read_layout(root, "msmt").train) == 3


def test_a_layout_that_is_named_is_not_looked_for(plant: Plant) -> None:
    # The split's folder is an identity like any other.
    root = plant({"bounding_box_train/0009_c1.jpg": "", "bounding_box_train/0008_c1.jpg": ""})
    assert [sample.pid for sample in read_layout(root, "folders").train] == [1, 1]


def test_data_sets_one_folder_further_down_are_pointed_at(plant: Plant) -> None:
    # CUHK03 in its new protocol comes in two kinds.
    root = plant({f"{kind}/bounding_box_train/0001_c1_1.png": "" for kind in ("labeled", "detected")})
    with pytest.raises(DataError, match=r"set: no images found; .* a data set inside it: detected, labeled$"):
        read_layout(root)
    assert len(read_layout(root / "detected").train) == 1


@pytest.mark.parametrize("name", ["market", "veri", "msmt", "folders"])
def test_only_vehicleid_has_test_lists_to_choose_from(name: str, plant: Plant) -> None:
    with pytest.raises(ParamsError, match=f'test_list: .* layout "vehicleid", but .* is "{name}"'):
        read_layout(plant(TREES[name].train), test_list="test_list_800.txt")
