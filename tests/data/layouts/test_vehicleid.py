import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.layouts import read_layout
from utils.errors import DataError, ParamsError

Plant = Callable[[Mapping[str, str]], Path]


def vehicles(*lists: str) -> dict[str, str]:
    """The n-th list holds n images, all of vehicle n."""
    files: dict[str, str] = {}
    for number, name in enumerate(lists, start=1):
        images = [f"{number:03}{place:04}" for place in range(number)]
        files |= {f"image/{image}.jpg": "" for image in images}
        files[f"train_test_split/{name}"] = "".join(f"{image} {number}\n" for image in images)
    return files


ALL = vehicles("train_list.txt", "test_list_800.txt", "test_list_13164.txt", "test_list_2400.txt", "test_list_1600.txt")


def test_the_largest_usual_test_list_is_taken_and_named(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant(ALL)
    with caplog.at_level(logging.INFO):
        assert {sample.pid for sample in read_layout(root).gallery} == {5}
    assert "test images of test_list_2400.txt" in caplog.text
    (root / "train_test_split" / "test_list_2400.txt").unlink()
    assert {sample.pid for sample in read_layout(root).gallery} == {6}


@pytest.mark.parametrize(("name", "pid"), [("test_list_800.txt", 3), ("test_list_13164.txt", 4)])
def test_another_test_list_can_be_chosen(name: str, pid: int, plant: Plant) -> None:
    dataset = read_layout(plant(ALL), test_list=name)
    assert {sample.pid for sample in dataset.gallery} == {pid}
    assert len(dataset.train) == 1


@pytest.mark.parametrize("name", ["test_list_80.txt", "train_list.txt", "../secret.txt", "test_list_800"])
def test_a_list_that_is_not_there_is_refused(name: str, plant: Plant) -> None:
    root = plant(vehicles("train_list.txt", "test_list_800.txt") | {"secret.txt": "0020000 1"})
    with pytest.raises(ParamsError, match=r"test_list: no list .* there are: test_list_800\.txt$"):
        read_layout(root, test_list=name)


def test_without_a_usual_list_the_user_chooses(plant: Plant) -> None:
    root = plant(vehicles("train_list.txt", "test_list_13164.txt", "test_list_6000.txt"))
    with pytest.raises(ParamsError, match=r"choose one of: test_list_13164\.txt, test_list_6000\.txt$"):
        read_layout(root)


def test_names_may_have_their_suffix(plant: Plant) -> None:
    root = plant({"train_test_split/train_list.txt": "0000001.jpg 4\n0000002 4\n", "image/0000001.jpg": ""})
    (root / "image" / "0000002.jpg").touch()
    assert [sample.path.name for sample in read_layout(root).train] == ["0000001.jpg", "0000002.jpg"]


@pytest.mark.parametrize("line", ["0000001", "4 5 6", "../0000001 4", "0000001.png 4", "0000001 -4", "0000001 4.5"])
def test_a_malformed_line_is_named(line: str, plant: Plant) -> None:
    root = plant({"train_test_split/train_list.txt": f"{line}\n", "image/0000001.jpg": ""})
    with pytest.raises(DataError, match=r'1 lines are not of the form "0310742 12"(.|\n)*train_list\.txt, line 1'):
        read_layout(root)


def test_listed_images_that_are_missing_are_named(plant: Plant) -> None:
    files = vehicles("train_list.txt", "test_list_800.txt")
    del files["image/0010000.jpg"], files["image/0020001.jpg"]
    with pytest.raises(DataError, match=r"2 images are listed, but not there:\n.*0010000\.jpg\n.*0020001\.jpg$"):
        read_layout(plant(files))
