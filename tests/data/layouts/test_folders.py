from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.layouts import read_layout
from utils.errors import DataError

Plant = Callable[[Mapping[str, str]], Path]


def test_one_folder_per_identity(plant: Plant) -> None:
    root = plant(dict.fromkeys(("zoe/1.jpg", "adam/2.png", "adam/1.jpg", "notes.txt"), ""))
    dataset = read_layout(root)
    assert [(sample.path.parent.name, sample.path.name, sample.pid) for sample in dataset.train] == [
        ("adam", "1.jpg", 1),
        ("adam", "2.png", 1),
        ("zoe", "1.jpg", 2),
    ]
    assert dataset.query == dataset.gallery == dataset.val == []


def test_splits_share_pids_and_no_query_shares_its_camera_with_the_gallery(plant: Plant) -> None:
    names = ("train/b/1.jpg", "query/c/1.jpg", "query/a/1.jpg", "gallery/c/1.jpg", "gallery/a/1.jpg", "val/b/2.jpg")
    dataset = read_layout(plant(dict.fromkeys(names, "")))
    assert [(sample.pid, sample.camid) for sample in dataset.train] == [(2, 0)]
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(1, 0), (3, 0)]
    assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(1, 1), (3, 1)]
    assert [(sample.pid, sample.camid) for sample in dataset.val] == [(2, 0)]


def test_folders_beside_the_splits_are_named_as_not_read(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant({"train/a/1.jpg": "", "val/a/2.jpg": "", "test/a/3.jpg": "", "extra/b/1.jpg": "", ".git/x/1.jpg": ""})
    dataset = read_layout(root)
    assert [len(split) for split in dataset] == [1, 0, 0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: only train, query, gallery, val are read; ignored: extra, test"
    ]


def test_images_that_lie_in_a_split_without_an_identity_are_not_taken_for_one(plant: Plant) -> None:
    with pytest.raises(DataError, match="no images found; expected one of these layouts"):
        read_layout(plant({"train/1.jpg": "", "gallery/1.jpg": ""}))


def test_images_in_folders_inside_those_of_identities_are_named_as_not_read(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    root = plant(dict.fromkeys(("cam1/1.jpg", "cam1/monday/2.jpg", "cam2/monday/3.jpg", "cam2/notes/a.txt"), ""))
    assert [sample.path.name for sample in read_layout(root).train] == ["1.jpg"]
    (message,) = (record.getMessage() for record in caplog.records)
    assert "crops without labels, set data_layout to unlabelled" in message
    assert message.splitlines()[1:] == [f"  {root}/cam1/monday", f"  {root}/cam2/monday"]
