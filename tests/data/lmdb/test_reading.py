"""A data set in an LMDB file: what was packed is read, whatever its names and whoever reads it."""

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.dataset import read_dataset
from data.decoding import Resize
from data.images import decode, find_bad_images, image_exists, read_bytes
from data.layouts.registry import LAYOUTS
from data.lmdb.format import IMAGES, add_checksum, strip_checksum
from data.lmdb.reading import read_about, read_lmdb
from data.lmdb.writing import pack_dataset, write_lmdb
from data.options import DataOptions
from data.samples import Dataset, Sample
from tests.conftest import ROOT
from tests.data.layouts.test_every_layout import TREES
from utils.errors import DataError, ParamsError

Plant = Callable[[Mapping[str, str]], Path]

# Letters of several scripts, spaces, dots and quotes, but neither "/" nor what "." and ".." mean.
NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@pytest.fixture
def market(tmp_path: Path, make_market: Callable[[Path], Path]) -> Path:
    return make_market(tmp_path / "market")


@pytest.fixture
def packed(market: Path, tmp_path: Path) -> Path:
    pack_dataset(tmp_path / "market.lmdb", DataOptions(batches_dir=str(market)))
    return tmp_path / "market.lmdb"


def moved(dataset: Dataset, root: Path, out: Path) -> Dataset:
    return Dataset(
        *([sample._replace(path=out / sample.path.relative_to(root)) for sample in split] for split in dataset)
    )


def test_a_packed_data_set_equals_its_folder_and_does_not_need_it_any_more(market: Path, packed: Path) -> None:
    folder, file = (read_dataset(DataOptions(batches_dir=str(root))) for root in (market, packed))
    assert [len(split) for split in file] == [31, 7, 14, 0]
    assert file == moved(folder, market, packed)
    for sample in (sample for split in folder for sample in split):
        inside = packed / sample.path.relative_to(market)
        assert read_bytes(inside) == sample.path.read_bytes()
        small = Resize(48, 16, "bilinear")
        np.testing.assert_array_equal(decode(inside, small), decode(sample.path, small))
    shutil.rmtree(market)
    other = packed.rename(packed.with_name("elsewhere.lmdb"))
    assert find_bad_images([sample.path for split in read_lmdb(other) for sample in split]) == []


# Images without labels are for training only.
PARTS = [(name, part) for name in LAYOUTS for part in ("all", "train", "test") if part != "test" or TREES[name].test]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_every_layout_is_read_as_its_folder_is(name: str, part: str, plant: Plant, tmp_path: Path) -> None:
    tree = TREES[name]
    files = {"all": tree.train | tree.test, "train": tree.train, "test": tree.test}[part]
    root, out = plant(files), tmp_path / "packed.lmdb"
    dataset = read_dataset(DataOptions(batches_dir=str(root)))
    write_lmdb(out, root, dataset, name)
    assert read_about(out).layout == name
    for choice in ("auto", name):
        assert read_dataset(DataOptions(batches_dir=str(out), data_layout=choice)) == moved(dataset, root, out)


def test_another_layout_or_test_list_than_the_packed_one_is_refused(plant: Plant, tmp_path: Path) -> None:
    lists = {"train_test_split/test_list_800.txt": "0000003 6\n", "train_test_split/test_list_1600.txt": "0000004 6\n"}
    root, out = plant(TREES["vehicleid"].train | TREES["vehicleid"].test | lists), tmp_path / "packed.lmdb"
    small = DataOptions(batches_dir=str(root), test_list="test_list_800.txt")
    write_lmdb(out, root, read_dataset(small), "vehicleid", "test_list_800.txt")
    for wanted in ("", "test_list_800.txt"):
        gallery = read_dataset(DataOptions(batches_dir=str(out), test_list=wanted)).gallery
        assert [sample.path for sample in gallery] == [out / "image" / "0000003.jpg"]
    with pytest.raises(ParamsError, match=r'test_list: "test_list_1600.txt" .*"test_list_800.txt"; set ""'):
        read_dataset(DataOptions(batches_dir=str(out), test_list="test_list_1600.txt"))
    with pytest.raises(ParamsError, match=r'data_layout: "market" .*packed with "vehicleid"; set "auto"'):
        read_dataset(DataOptions(batches_dir=str(out), data_layout="market"))


def test_a_missing_image_is_named(packed: Path) -> None:
    sample = read_lmdb(packed).query[0]
    assert image_exists(sample.path)
    missing = packed / "query" / "missing.jpg"
    assert not image_exists(missing)
    with pytest.raises(DataError, match=r"market\.lmdb/query/missing\.jpg: no such image"):
        decode(missing)
    packed.unlink()
    assert not image_exists(sample.path)
    with pytest.raises(DataError, match=r"No such file or directory|Not a directory"):
        decode(sample.path)


def test_a_folder_may_be_named_like_an_lmdb_file(market: Path, tmp_path: Path) -> None:
    folder = market.rename(tmp_path / "market.lmdb")
    sample = read_dataset(DataOptions(batches_dir=str(folder))).query[0]
    assert image_exists(sample.path)
    assert read_bytes(sample.path) == sample.path.read_bytes()


def test_an_image_of_two_splits_is_stored_once(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    image = draw_image(tmp_path / "set" / "a.png")
    dataset = Dataset([], [Sample(image, 3, 1)], [Sample(image, 3, 2)], [])
    out = tmp_path / "set.lmdb"
    write_lmdb(out, tmp_path / "set", dataset, "folders")
    assert read_lmdb(out) == moved(dataset, tmp_path / "set", out)
    shutil.copy(out, tmp_path / "copy.lmdb")
    with lmdb.open(str(tmp_path / "copy.lmdb"), subdir=False, max_dbs=2, readonly=True, lock=False) as environment:
        images = environment.open_db(IMAGES, create=False)
        with environment.begin() as transaction:
            assert transaction.stat(images)["entries"] == 1


def check_written_and_read(folder: Path, contents: dict[str, bytes], pids: list[int]) -> None:
    root, out = folder / "set", folder / "set.lmdb"
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    samples = [Sample(root / name, pid, pid + 1) for name, pid in zip(contents, pids, strict=True)]
    dataset = Dataset(samples[::4], samples[1::4], samples[2::4], samples[3::4])
    write_lmdb(out, root, dataset, "folders")
    assert read_lmdb(out) == moved(dataset, root, out)
    assert {name: read_bytes(out / name) for name in contents} == contents


def test_names_may_be_long_or_no_unicode(tmp_path: Path) -> None:
    long = "/".join(["long" * 60] * 12)
    names = [f"{long}/1.jpg", f"{long}/2.jpg", os.fsdecode(b"caf\xe9.jpg"), "人物.lmdb/写真 1.jpg"]
    check_written_and_read(
        tmp_path, {name: name[-6:].encode() for name in names[:2]} | {names[2]: b"", names[3]: b"1"}, [1] * 4
    )


@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "a/".join(parts) + ".jpg"),
        st.tuples(st.binary(max_size=9000), st.integers(-1, 10**18)),
        max_size=20,
    )
)
def test_any_data_set_comes_back(files: dict[str, tuple[bytes, int]]) -> None:
    files = {name: file for name, file in files.items() if not any(f"{name}/" in other for other in files)}
    with tempfile.TemporaryDirectory() as folder:
        contents = {name: content for name, (content, _) in files.items()}
        check_written_and_read(Path(folder), contents, [pid for _, pid in files.values()])


@given(st.binary(max_size=40), st.binary(max_size=40), st.data())
def test_a_record_is_known_by_its_checksum(key: bytes, content: bytes, data: st.DataObject) -> None:
    record = add_checksum(key, content)
    assert strip_checksum(key, record) == content
    place = data.draw(st.integers(0, 8 * len(record) - 1))
    damaged = bytearray(record)
    damaged[place // 8] ^= 1 << place % 8
    assert strip_checksum(key, bytes(damaged)) is None
    assert strip_checksum(key + b"\0", record) is None
    assert strip_checksum(key, record[:3]) is None


@pytest.mark.parametrize("in_place", [True, False], ids=["rewritten", "replaced"])
@pytest.mark.parametrize("size", [1000, 900_000], ids=["the same size", "another size"])
def test_a_file_that_was_packed_once_more_is_read_anew(in_place: bool, size: int, tmp_path: Path) -> None:
    """As in a notebook, whose process has the old file open."""
    files = []
    for name, content in (("old", b"a" * 1000), ("new", b"b" * size)):
        image = tmp_path / name / "1.jpg"
        image.parent.mkdir()
        image.write_bytes(content)
        files.append(tmp_path / f"{name}.lmdb")
        write_lmdb(files[-1], image.parent, Dataset([Sample(image, 1, 0)], [], [], []), f"layout {name}")
    old, new = files
    # Another name of the same file, which LMDB would refuse to open once more.
    link = tmp_path / "link.lmdb"
    link.symlink_to(old)
    for time in (1, 2):  # touched
        os.utime(old, (time, time))
        assert read_bytes(old / "1.jpg") == b"a" * 1000
    if in_place:
        with old.open("r+b") as file:
            file.write(new.read_bytes())
    else:
        new.replace(old)
    os.utime(old, (3, 3))
    assert read_bytes(old / "1.jpg") == read_bytes(link / "1.jpg") == b"b" * size
    assert read_about(old).layout == "layout new"


def digests(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda path: hashlib.sha256(read_bytes(path)).hexdigest(), paths))


def read_together(method: str, packed: str) -> None:
    """In a process of its own, which starts others."""
    paths = [sample.path for split in read_lmdb(Path(packed)) for sample in split]
    expected = digests(paths)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(digests, [paths] * 6, chunksize=1) == [expected] * 6
        # The parent continues with the file it had open.
        assert digests(paths) == expected
    print(len(paths), "images, all alike")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_and_threads_read_together(method: str, packed: Path) -> None:
    code = "import sys; from tests.data.lmdb.test_reading import read_together; read_together(*sys.argv[1:])"
    command = [sys.executable, "-c", code, method, str(packed)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (process.returncode, process.stdout) == (0, "52 images, all alike\n"), process.stderr
