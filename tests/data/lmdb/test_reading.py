"""A data set in an LMDB file: what goes in comes out, whatever its names, and whoever reads it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import read_dataset
from data.images import decode, find_bad_images, image_exists, read_bytes
from data.lmdb.format import IMAGES, add_checksum, is_lmdb, strip_checksum
from data.lmdb.reading import read_lmdb, split_path
from data.lmdb.writing import pack_dataset, write_lmdb
from data.options import DataOptions
from data.samples import Dataset, Sample
from tests.conftest import ROOT
from utils.errors import DataError

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


def test_a_packed_data_set_equals_its_folder_but_for_the_path(market: Path, packed: Path) -> None:
    folder, file = (read_dataset(DataOptions(batches_dir=str(root))) for root in (market, packed))
    assert [len(split) for split in file] == [31, 7, 14, 0]
    for split, packed_split in zip(folder, file, strict=True):
        assert packed_split == [sample._replace(path=packed / sample.path.relative_to(market)) for sample in split]
        assert packed_split == sorted(packed_split)
        for sample, packed_sample in zip(split, packed_split, strict=True):
            assert read_bytes(packed_sample.path) == sample.path.read_bytes()
            np.testing.assert_array_equal(decode(packed_sample.path, 48, 16), decode(sample.path, 48, 16))
    assert find_bad_images([sample.path for split in file for sample in split]) == []


def test_the_folder_is_not_needed_any_more(market: Path, packed: Path, tmp_path: Path) -> None:
    shutil.rmtree(market)
    moved = packed.rename(tmp_path / "elsewhere.lmdb")
    sample = read_lmdb(moved).query[0]
    assert decode(sample.path).shape == (64, 32, 3)


def test_what_is_not_in_it_is_not_there(packed: Path) -> None:
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
    assert not is_lmdb(folder)
    sample = read_dataset(DataOptions(batches_dir=str(folder))).query[0]
    assert split_path(sample.path) is None
    assert image_exists(sample.path)
    assert read_bytes(sample.path) == sample.path.read_bytes()


def test_an_image_of_two_splits_is_stored_once(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    image = draw_image(tmp_path / "set" / "a.png")
    both = Sample(image, 3, 1), Sample(image, 3, 2)
    out = tmp_path / "set.lmdb"
    write_lmdb(out, tmp_path / "set", Dataset([], [both[0]], [both[1]], []), "folders")
    packed = read_lmdb(out)
    assert packed == ([], [both[0]._replace(path=out / "a.png")], [both[1]._replace(path=out / "a.png")], [])
    shutil.copy(out, tmp_path / "copy.lmdb")
    with lmdb.open(str(tmp_path / "copy.lmdb"), subdir=False, max_dbs=2, readonly=True, lock=False) as environment:
        images = environment.open_db(IMAGES, create=False)
        with environment.begin() as transaction:
            assert transaction.stat(images)["entries"] == 1


def test_names_may_be_long_or_no_unicode(tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "set.lmdb"
    long = root.joinpath(*["long" * 60] * 12)
    names = [long / "1.jpg", long / "2.jpg", root / os.fsdecode(b"caf\xe9.jpg"), root / "人物.lmdb" / "写真 1.jpg"]
    for number, path in enumerate(names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
    write_lmdb(out, root, Dataset([Sample(path, 1, 0) for path in names], [], [], []), "folders")
    packed = [sample.path for sample in read_lmdb(out).train]
    assert packed == [out / path.relative_to(root) for path in names]
    assert [read_bytes(path) for path in packed] == [bytes([number]) for number in range(4)]


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "a/".join(parts) + ".jpg"),
        st.tuples(st.binary(max_size=9000), st.integers(-1, 10**18), st.integers(0, 10**18), st.sampled_from("tqgv")),
        max_size=20,
    )
)
def test_any_data_set_comes_back(files: dict[str, tuple[bytes, int, int, str]]) -> None:
    splits: dict[str, list[Sample]] = {letter: [] for letter in "tqgv"}
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "set", Path(folder) / "set.lmdb"
        written = {}
        for name, (content, pid, camid, split) in files.items():
            path = root / name
            if any(parent in written for parent in path.parents) or path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written[path] = content
            splits[split].append(Sample(path, pid, camid))
        dataset = Dataset(*splits.values())
        write_lmdb(out, root, dataset, "folders")
        packed = read_lmdb(out)
        for split, packed_split in zip(dataset, packed, strict=True):
            assert packed_split == [sample._replace(path=out / sample.path.relative_to(root)) for sample in split]
        for path, content in written.items():
            assert read_bytes(out / path.relative_to(root)) == content


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


def test_what_took_its_place_is_read_anew(market: Path, packed: Path, tmp_path: Path) -> None:
    """As in a notebook: the process has the old file open while the data set is packed once more."""
    sample = read_lmdb(packed).query[0]
    before = read_bytes(sample.path)
    original = market / sample.path.relative_to(packed)
    shutil.copy(next(path for path in sorted((market / "query").iterdir()) if path != original), original)
    packed.unlink()
    pack_dataset(packed, DataOptions(batches_dir=str(market)))
    assert read_bytes(sample.path) == original.read_bytes() != before
    # Another name of the same file, which LMDB would refuse to open once more.
    link = tmp_path / "link.lmdb"
    link.symlink_to(packed)
    hard = tmp_path / "hard.lmdb"
    hard.hardlink_to(packed)
    for name in (link, hard):
        assert read_bytes(name / sample.path.relative_to(packed)) == original.read_bytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_and_threads_read_together(method: str, packed: Path) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    script = packed.with_name("readers.py")
    script.write_text(READERS)
    command = [sys.executable, str(script), method, str(packed)]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (process.returncode, process.stdout) == (0, "52 images, all alike\n"), process.stderr


READERS = """
import hashlib, multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.images import read_bytes
from data.lmdb.reading import read_lmdb


def digest(path):
    return hashlib.sha256(read_bytes(path)).hexdigest()


def digests(paths):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(digest, paths))


if __name__ == "__main__":
    paths = [sample.path for split in read_lmdb(Path(sys.argv[2])) for sample in split]
    expected = digests(paths)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(digests, [paths] * 6, chunksize=1) == [expected] * 6
        # The parent goes on with what it had open.
        assert digests(paths) == expected
    print(len(paths), "images, all alike")
"""
