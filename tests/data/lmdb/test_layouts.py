"""Every layout packed into an LMDB file gives the same data set as its folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.dataset import read_dataset
from data.images import read_bytes
from data.layouts.registry import LAYOUTS
from data.lmdb.reading import read_about
from data.lmdb.writing import write_lmdb
from data.options import DataOptions
from tests.data.layouts.test_every_layout import TREES
from utils.errors import ParamsError


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("part", ["all", "train", "test"])
def test_a_packed_layout_is_read_as_its_folder_is(
    name: str, part: str, plant: Callable[[Mapping[str, str]], Path], tmp_path: Path
) -> None:
    tree = TREES[name]
    files = {"all": tree.train | tree.test, "train": tree.train, "test": tree.test}[part]
    # Layouts never open an image; here each holds its own path.
    root = plant({path: text or path for path, text in files.items()})
    dataset = read_dataset(DataOptions(batches_dir=str(root)))
    out = tmp_path / "packed.lmdb"
    write_lmdb(out, root, dataset, name)
    assert read_about(out).layout == name
    for choice in ("auto", name):
        packed = read_dataset(DataOptions(batches_dir=str(out), data_layout=choice))
        for split, packed_split in zip(dataset, packed, strict=True):
            expected = [sample._replace(path=out / sample.path.relative_to(root)) for sample in split]
            assert packed_split == expected
    for sample in (sample for split in packed for sample in split):
        assert read_bytes(sample.path).decode() == sample.path.relative_to(out).as_posix()


def test_another_layout_than_the_packed_one_is_refused(
    plant: Callable[[Mapping[str, str]], Path], tmp_path: Path
) -> None:
    root, out = plant(TREES["veri"].train), tmp_path / "packed.lmdb"
    write_lmdb(out, root, read_dataset(DataOptions(batches_dir=str(root))), "veri")
    with pytest.raises(ParamsError, match=r'data_layout: "market" .*packed with "veri"; set "auto"'):
        read_dataset(DataOptions(batches_dir=str(out), data_layout="market"))


def test_the_test_list_that_was_packed_is_the_one_there_is(
    plant: Callable[[Mapping[str, str]], Path], tmp_path: Path
) -> None:
    lists = {"train_test_split/test_list_800.txt": "0000003 6\n", "train_test_split/test_list_1600.txt": "0000004 6\n"}
    root, out = plant(TREES["vehicleid"].train | TREES["vehicleid"].test | lists), tmp_path / "packed.lmdb"
    small = DataOptions(batches_dir=str(root), test_list="test_list_800.txt")
    write_lmdb(out, root, read_dataset(small), "vehicleid", "test_list_800.txt")
    for wanted in ("", "test_list_800.txt"):
        gallery = read_dataset(DataOptions(batches_dir=str(out), test_list=wanted)).gallery
        assert [sample.path for sample in gallery] == [out / "image" / "0000003.jpg"]
    with pytest.raises(ParamsError, match=r'test_list: "test_list_1600.txt" .*"test_list_800.txt"; set ""'):
        read_dataset(DataOptions(batches_dir=str(out), test_list="test_list_1600.txt"))
