import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from data.layouts import detect_layout, read_layout
from utils.errors import DataError

Draw = Callable[..., Path]


def test_market_names_tell_pid_and_camera(tmp_path: Path, draw_image: Draw, caplog: pytest.LogCaptureFixture) -> None:
    names = {
        "bounding_box_train": ["1501_c15s2_000451_03.png", "0002_c1s1_000451_03.jpg", "-1_c3s1_000000_00.jpg"],
        "query": ["0007_c2s1_000001_00.jpg"],
        "bounding_box_test": ["0000_c1s1_000001_00.jpg", "-1_c3s1_000001_00.jpg", "0007_c12.JPEG"],
    }
    for split, files in names.items():
        for name in files:
            draw_image(tmp_path / split / name)
        (tmp_path / split / "Thumbs.db").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        dataset = read_layout(tmp_path)
    assert "1 junk images (pid -1) are not trained on" in caplog.text
    assert [(sample.pid, sample.camid) for sample in dataset.train] == [(2, 1), (1501, 15)]
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(7, 2)]
    assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(-1, 3), (0, 1), (7, 12)]


def test_samples_are_sorted_by_path(tmp_path: Path, draw_image: Draw) -> None:
    for name in ("0009_c1.jpg", "0001_c2.jpg", "0001_c1.jpg", "0005_c1.jpg"):
        draw_image(tmp_path / "bounding_box_train" / name)
    paths = [sample.path for sample in read_layout(tmp_path).train]
    assert paths == sorted(paths)


def test_a_wrongly_named_image_is_refused(tmp_path: Path, draw_image: Draw) -> None:
    draw_image(tmp_path / "bounding_box_train" / "holiday.jpg")
    with pytest.raises(DataError, match=r"holiday\.jpg.*0002_c1"):
        read_layout(tmp_path)


def test_one_folder_per_identity(tmp_path: Path, draw_image: Draw) -> None:
    for name in ("zoe/1.jpg", "adam/2.png", "adam/1.jpg"):
        draw_image(tmp_path / name)
    dataset = read_layout(tmp_path)
    assert [(sample.path.parent.name, sample.path.name, sample.pid) for sample in dataset.train] == [
        ("adam", "1.jpg", 1),
        ("adam", "2.png", 1),
        ("zoe", "1.jpg", 2),
    ]
    assert dataset.query == dataset.gallery == []


def test_folders_with_splits_share_pids_and_never_a_camera(tmp_path: Path, draw_image: Draw) -> None:
    for name in ("train/b/1.jpg", "query/c/1.jpg", "query/a/1.jpg", "gallery/c/1.jpg", "gallery/a/1.jpg"):
        draw_image(tmp_path / name)
    dataset = read_layout(tmp_path)
    assert [(sample.pid, sample.camid) for sample in dataset.train] == [(2, 0)]
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(1, 0), (3, 0)]
    assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(1, 1), (3, 1)]


def test_the_layout_is_detected_or_named(tmp_path: Path, draw_image: Draw) -> None:
    draw_image(tmp_path / "bounding_box_train" / "0001_c1.jpg")
    assert detect_layout(tmp_path) == "market"
    # Named "folders", the split's folder is an identity like any other.
    assert [sample.pid for sample in read_layout(tmp_path, "folders").train] == [1]


@pytest.mark.parametrize("layout", ["auto", "market", "folders"])
def test_a_folder_without_images_is_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_layout(tmp_path / "missing", layout)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"no data set|no training images"):
        read_layout(tmp_path, layout)  # pyright: ignore[reportArgumentType]
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(DataError, match="no training images"):
        read_layout(tmp_path, layout)  # pyright: ignore[reportArgumentType]
