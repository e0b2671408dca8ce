"""Images without labels in folders of any depth, and the cameras that their names tell."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.dataset import check_training_set, summary_table
from data.layouts import detect_layout, read_layout
from data.options import DataOptions
from data.samples import UNKNOWN_PID
from utils.errors import DataError

Plant = Callable[[Mapping[str, str]], Path]


@pytest.mark.parametrize(
    ("name", "camid"),
    [
        ("0002_c1s1_000451_03.jpg", 1),
        ("0002_c012_00030600_0.jpg", 12),
        ("c3_17.png", 3),
        ("17_C4.png", 4),
        ("cam3_17.png", 3),
        ("camera-12 17.png", 12),
        ("gate_Cam07.png", 7),
        ("cam5/17.png", 5),
        ("cam5/0002_c1s1_000451_03.jpg", 1),
        ("site/camera 2/monday/17.png", 2),
        ("17.png", 0),
        ("abc12.png", 0),
        ("webcam3.png", 0),
        ("3f1b-c123-9d.png", 0),
        ("c12ab.png", 0),
    ],
)
def test_the_camera_is_in_the_name_of_the_file_or_of_a_folder(name: str, camid: int, plant: Plant) -> None:
    (sample,) = read_layout(plant({name: ""}), "unlabelled").train
    assert (sample.pid, sample.camid) == (UNKNOWN_PID, camid)


def test_folders_of_any_depth_are_read_once(plant: Plant) -> None:
    root = plant({"b/2.jpg": "", "a/deep/1.jpg": "", "0.jpg": "", ".hidden/3.jpg": "", "a/notes.txt": ""})
    (root / "a" / "deep" / "circle").symlink_to(root, target_is_directory=True)
    dataset = read_layout(root, "unlabelled")
    assert [str(sample.path.relative_to(root)) for sample in dataset.train] == ["0.jpg", "a/deep/1.jpg", "b/2.jpg"]
    assert not any(dataset[1:])


def test_folders_in_a_folder_are_identities_unless_said_otherwise(plant: Plant) -> None:
    root = plant({"a/1.jpg": "", "b/2.jpg": "", "3.jpg": ""})
    assert detect_layout(root) == "folders"
    assert [sample.pid for sample in read_layout(root).train] == [1, 2]


def test_the_table_knows_no_identities_and_training_with_labels_is_refused(plant: Plant) -> None:
    root = plant({"c1_1.jpg": "", "c2_2.jpg": "", "3.jpg": ""})
    dataset = read_layout(root)
    assert summary_table(dataset).splitlines()[1].split() == ["train", "3", "0", "3", "0", "0"]
    with pytest.raises(DataError, match=r"no labels; set clustering_params\.method"):
        check_training_set(dataset.train, DataOptions(batches_dir=str(root)))
