from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.dataset import read_dataset
from data.label_fixes import Fix, write_fixes
from data.options import DataOptions
from data.samples import Dataset
from utils.errors import DataError

HEADER = "path,action,pid,new_pid\n"
NAMES = ("0002_c1_a", "0002_c2_b", "0003_c1_a", "0003_c2_b", "0004_c1_a")
TRAIN = {f"bounding_box_train/{name}.jpg": "" for name in NAMES}

Plant = Callable[[Mapping[str, str]], Path]


def read(root: Path, fixes: str) -> Dataset:
    path = root / "fixes.csv"
    path.write_text(fixes)
    return read_dataset(DataOptions(batches_dir=str(root), label_fixes=str(path)))


def labels(dataset: Dataset) -> dict[str, int]:
    return {sample.path.stem: sample.pid for sample in dataset.train}


def test_images_are_moved_split_off_and_dropped_and_identities_are_merged(plant: Plant) -> None:
    root = plant({**TRAIN, "query/0005_c1.jpg": ""})
    fixed = read(
        root,
        "reason,path,action,pid,new_pid\n"
        ",bounding_box_train/0002_c1_a.jpg,move,2,3\n"
        ",bounding_box_train/0002_c2_b.jpg,split,2,9\n"
        "\n"
        '"a blank, a comma",bounding_box_train/0003_c1_a.jpg,drop,3,\n'
        ",,merge,3,4\n",
    )
    assert labels(fixed) == {"0002_c1_a": 4, "0002_c2_b": 9, "0003_c2_b": 4, "0004_c1_a": 4}
    assert [sample.pid for sample in fixed.query] == [5]
    assert [sample.path for sample in fixed.train] == sorted(sample.path for sample in fixed.train)


def test_a_second_file_corrects_what_the_first_leaves(plant: Plant) -> None:
    root = plant(TRAIN)
    (root / "first.csv").write_text(HEADER + "bounding_box_train/0002_c1_a.jpg,split,2,9\n,merge,3,4\n")
    (root / "second.csv").write_text(HEADER + "bounding_box_train/0002_c1_a.jpg,move,9,4\n,merge,4,2\n")
    files = (str(root / "first.csv"), str(root / "second.csv"))
    fixed = read_dataset(DataOptions(batches_dir=str(root), label_fixes=files))
    assert set(labels(fixed).values()) == {2}
    with pytest.raises(DataError, match=r"second\.csv, line 2: .* has pid 2, not 9"):
        read_dataset(DataOptions(batches_dir=str(root), label_fixes=files[1]))


def test_validation_images_follow_their_identities(plant: Plant) -> None:
    root = plant(dict.fromkeys(("train/ann/1.jpg", "train/bob/1.jpg", "val/ann/2.jpg", "val/bob/2.jpg"), ""))
    fixed = read(root, HEADER + ",merge,1,2\nval/bob/2.jpg,drop,2,\n")
    assert [(sample.path.parent.name, sample.pid) for sample in fixed.val] == [("ann", 2)]


def test_what_is_written_is_read(plant: Plant, tmp_path: Path) -> None:
    name = 'bounding_box_train/0002_c1_,"\udce9.jpg'
    root = plant({**TRAIN, name: ""})
    fixes = [Fix(name, "move", 2, 3, 'looks like "3", not 2', 0.9), Fix("", "merge", 4, 3, "", 0.5)]
    write_fixes(tmp_path / "fixes.csv", fixes)
    fixed = read_dataset(DataOptions(batches_dir=str(root), label_fixes=str(tmp_path / "fixes.csv")))
    assert sorted(sample.pid for sample in fixed.train) == [2, 2, 3, 3, 3, 3]
    assert (tmp_path / "fixes.csv").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bounding_box_train/0002_c1_a.jpg,moved,2,3", "unknown action 'moved'; did you mean 'move'"),
        ("bounding_box_train/0002_c1_a.jpg,,2,3", "unknown action ''; one of move, split, drop, merge"),
        ("bounding_box_train/0009_c1_a.jpg,drop,9,", "bounding_box_train/0009_c1_a.jpg: no such image"),
        ("query/0005_c1.jpg,drop,5,", "query/0005_c1.jpg: is a test image"),
        ("bounding_box_train/0002_c1_a.jpg,move,4,3", "0002_c1_a.jpg has pid 2, not 4"),
        ("bounding_box_train/0002_c1_a.jpg,move,2,2", "the pid that it has already, 2"),
        ("bounding_box_train/0002_c1_a.jpg,move,2,9", "no training image has pid 9; for a new identity"),
        ("bounding_box_train/0002_c1_a.jpg,split,2,5", "pid 5 is taken"),
        ("bounding_box_train/0002_c1_a.jpg,split,2,", "new_pid must be a whole number from 0 on, got ''"),
        ("bounding_box_train/0002_c1_a.jpg,drop,-2,", "pid must be a whole number from 0 on, got '-2'"),
        ("bounding_box_train/0002_c1_a.jpg,drop,2,3", "leave new_pid empty, got '3'"),
        (",drop,2,", "path is empty"),
        ("bounding_box_train/0002_c1_a.jpg,merge,2,3", "leave path empty"),
        (",merge,9,3", "no training image has pid 9"),
        (",merge,4,9", "no training image has pid 9"),
        (",merge,3,4", "3 has a line already: line 2"),
        (",merge,4,3", "pid 3 is merged away by line 2"),
        ("bounding_box_train/0004_c1_a.jpg,drop,4,", "0004_c1_a.jpg has a line already: line 3"),
        ("bounding_box_train/0002_c1_a.jpg", "unknown action ''"),
    ],
)
def test_a_line_that_does_not_fit_is_named(plant: Plant, line: str, message: str) -> None:
    root = plant({**TRAIN, "query/0005_c1.jpg": ""})
    with pytest.raises(DataError) as error:
        read(root, HEADER + f",merge,3,2\nbounding_box_train/0004_c1_a.jpg,move,4,2\n{line}\n")
    assert str(error.value).startswith(f"label_fixes: {root / 'fixes.csv'}, line 4: ")
    assert message in str(error.value)


def test_all_lines_that_do_not_fit_are_named_in_one_message(plant: Plant) -> None:
    root = plant(TRAIN)
    with pytest.raises(DataError, match=r"label_fixes: 2 lines do not fit:\n.*line 2: (.|\n)*line 4: "):
        read(root, HEADER + "a.jpg,drop,2,\n\nb.jpg,drop,2,\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: lacks the columns path, action, pid, new_pid"),
        ("path;action;pid;new_pid\n", "line 1: lacks the columns"),
        (HEADER + 'a,"' + "x" * 200_000 + '",2,3\n', "not a CSV file"),
    ],
)
def test_another_file_is_refused(plant: Plant, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(plant(TRAIN), content)


def test_a_missing_file_is_named(plant: Plant) -> None:
    with pytest.raises(DataError, match=r"label_fixes: gone\.csv: cannot be read: No such file"):
        read_dataset(DataOptions(batches_dir=str(plant(TRAIN)), label_fixes="gone.csv"))
