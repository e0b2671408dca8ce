import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.layouts import detect_layout, read_layout
from utils.errors import DataError

Plant = Callable[[Mapping[str, str]], Path]


@pytest.mark.parametrize(
    ("name", "pid", "camid"),
    [
        ("0002_c1s1_000451_03.jpg", 2, 1),  # Market-1501
        ("1501_c6s4_020002_01.jpg.jpg", 1501, 6),  # Market-1501 has doubled suffixes among its extra images
        ("-1_c3s1_000000_00.jpg", -1, 3),
        ("0000_c1s1_000151_01.jpg", 0, 1),
        ("0001_c2_f0046182.jpg", 1, 2),  # DukeMTMC-reID
        ("7139_c8_f0164356.jpg", 7139, 8),
        ("0003_c1_21.png", 3, 1),  # CUHK03, new protocol
        ("1467_c2_3049.png", 1467, 2),
        ("12345678_c15.JPEG", 12345678, 15),
    ],
)
def test_names_tell_pid_and_camera(name: str, pid: int, camid: int, plant: Plant) -> None:
    root = plant({f"bounding_box_test/{name}": "", "bounding_box_test/Thumbs.db": ""})
    assert detect_layout(root) == "market"
    assert [(sample.pid, sample.camid) for sample in read_layout(root).gallery] == [(pid, camid)]


@pytest.mark.parametrize("folder", ["bounding_box_train", "image_train"])
def test_junk_is_not_trained_on(folder: str, plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant({f"{folder}/-1_c3.jpg": "", f"{folder}/0002_c1.jpg": "", f"{folder}/0000_c1.jpg": ""})
    with caplog.at_level(logging.INFO):
        assert [sample.pid for sample in read_layout(root).train] == [0, 2]
    assert "1 junk images (pid -1)" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "holiday.jpg",
        "c1_0002.jpg",
        "0002_s1_c1.jpg",
        "-2_c1.jpg",  # junk is -1, and there is no other sign
        "0002_c.jpg",
        "0002_cx1.jpg",
        "9999999999999999999_c1.jpg",  # more than 64 bits hold
        "0002_c9999999999999999999.jpg",
    ],
)
def test_a_wrong_name_is_refused(name: str, plant: Plant) -> None:
    root = plant({f"bounding_box_train/{name}": "", "bounding_box_train/0002_c1.jpg": ""})
    with pytest.raises(DataError, match=r"the names of 1 images do not begin like 0002_c1") as caught:
        read_layout(root)
    assert name in str(caught.value)


def test_wrong_names_of_all_folders_are_counted_and_the_first_shown(plant: Plant) -> None:
    files = {f"{folder}/x{place:02}.jpg": "" for folder in ("bounding_box_train", "query") for place in range(8)}
    with pytest.raises(DataError, match=r"the names of 16 images") as caught:
        read_layout(plant(files), "market")
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 11
    assert [Path(line).name for line in lines[7:10]] == ["x07.jpg", "x00.jpg", "x01.jpg"]
    assert lines[10] == "  and 6 more"


def test_an_identity_called_query_does_not_make_a_market(plant: Plant) -> None:
    assert detect_layout(plant({"query/anna/1.jpg": ""})) == "folders"
    assert detect_layout(plant({"query/holiday.jpg": ""})) == "folders"
