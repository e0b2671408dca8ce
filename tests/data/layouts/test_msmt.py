from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.layouts import detect_layout, read_layout
from utils.errors import DataError

Plant = Callable[[Mapping[str, str]], Path]

IMAGES = [f"0000/0000_{place:03}_{camera:02}_0303morning_0008_0.jpg" for place, camera in enumerate((3, 1, 15, 9))]
LISTS = {
    f"list_{split}.txt": f"{image} 0\n"
    for split, image in zip(("train", "val", "query", "gallery"), IMAGES, strict=True)
}


def images(train: str, test: str) -> dict[str, str]:
    return {f"{train}/{image}": "" for image in IMAGES[:2]} | {f"{test}/{image}": "" for image in IMAGES[2:]}


@pytest.mark.parametrize(("train", "test"), [("mask_train_v2", "mask_test_v2"), ("train", "test")])
def test_both_versions_are_read(train: str, test: str, plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant(LISTS | images(train, test))
    assert detect_layout(root) == "msmt"
    dataset = read_layout(root)
    # The validation images are trained on; the third field is the camera; 0, which marks distractors, is nobody's pid.
    assert [sample[1:] for sample in dataset.train] == [(1, 3), (1, 1)]
    assert [sample[1:] for sample in dataset.query] == [(1, 15)]
    assert [sample[1:] for sample in dataset.gallery] == [(1, 9)]
    assert dataset.val == []
    assert dataset.gallery[0].path == root / test / IMAGES[3]
    assert caplog.records == []


@pytest.mark.parametrize("name", LISTS)
def test_any_one_list_tells_the_layout(name: str, plant: Plant) -> None:
    assert detect_layout(plant({name: "", f"train/{IMAGES[0]}": ""})) == "msmt"


def test_of_two_versions_the_newer_is_read_and_said_so(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant(LISTS | images("train", "test") | images("mask_train_v2", "mask_test_v2"))
    assert {sample.path.parts[-3] for split in read_layout(root) for sample in split} == {
        "mask_train_v2",
        "mask_test_v2",
    }
    assert "both versions" in caplog.text


def test_a_missing_training_list_is_warned_of(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant({name: text for name, text in LISTS.items() if name != "list_val.txt"} | images("train", "test"))
    assert len(read_layout(root).train) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: list_val.txt is missing; training continues without its images"
    ]


def test_lists_without_their_folder_give_no_images(plant: Plant) -> None:
    test_only = {name: "" for name in images("mask_train_v2", "mask_test_v2") if name.startswith("mask_test_v2")}
    assert [len(split) for split in read_layout(plant(LISTS | test_only))] == [0, 1, 1, 0]


def test_images_without_their_lists_are_no_data_set(plant: Plant) -> None:
    with pytest.raises(DataError, match=r"no images found; expected list_train\.txt, list_val\.txt"):
        read_layout(plant(images("mask_train_v2", "mask_test_v2")), "msmt")


def test_lists_may_have_other_line_ends_spaces_and_empty_lines(plant: Plant) -> None:
    text = f"\ufeff{IMAGES[3]}\t4\r\n\r\n  {IMAGES[2]}   4 \r\n"
    dataset = read_layout(plant(LISTS | {"list_gallery.txt": text} | images("train", "test")))
    assert [(sample.path.name, sample.pid) for sample in dataset.gallery] == [
        (Path(IMAGES[2]).name, 5),
        (Path(IMAGES[3]).name, 5),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_01_0303morning_0008_0.jpg",  # no pid
        "0000/0000_000_01_0303morning_0008_0.jpg 1 2",
        "0000/0000_000_01_0303morning_0008_0.jpg -1",
        "0000/0000_000_01_0303morning_0008_0.jpg one",
        "0000/0000_000_01_0303morning_0008_0.jpg 9999999999999999999",
        "0000/0000_000_c1_0303morning_0008_0.jpg 1",  # no camera
        "0000/holiday.jpg 1",
        "0000_000_01_0303morning_0008_0.jpg 1",  # no folder
        "../0000_000_01_0303morning_0008_0.jpg 1",
        "/0000/0000_000_01_0303morning_0008_0.jpg 1",
        "\udcff",  # no UTF-8
    ],
)
def test_a_malformed_line_is_named(line: str, plant: Plant) -> None:
    root = plant(LISTS | images("train", "test"))
    content = f"{IMAGES[2]} 0\n\n{line}\n".encode(errors="surrogateescape")
    (root / "list_query.txt").write_bytes(content)
    with pytest.raises(
        DataError, match=r'1 lines are not of the form "0000/0000_000_01_0303morning_0008_0\.jpg 0"'
    ) as e:
        read_layout(root)
    assert f"{root / 'list_query.txt'}, line 3: " in str(e.value)


def test_all_mistakes_of_all_lists_are_in_one_message(plant: Plant) -> None:
    lost = [f"0007/0007_{place:03}_01_0303noon_0008_0.jpg" for place in range(12)]
    lists = {"list_train.txt": f"{lost[0]} 7\nnonsense\n", "list_val.txt": "".join(f"{name} 7\n" for name in lost[1:])}
    root = plant(LISTS | lists | {"list_gallery.txt": "more nonsense\n"} | images("train", "test"))
    with pytest.raises(DataError) as caught:
        read_layout(root)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{root}: 2 lines are not of the form")
    assert lines[1:3] == [
        f"  {root / 'list_train.txt'}, line 2: 'nonsense'",
        f"  {root / 'list_gallery.txt'}, line 1: 'more nonsense'",
    ]
    assert lines[3] == "12 images are listed, but not there:"
    assert lines[4:] == [*(f"  {root / 'train' / name}" for name in lost[:10]), "  and 2 more"]
