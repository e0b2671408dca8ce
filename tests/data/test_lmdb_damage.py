"""A damaged LMDB file gives a message that names it, and never a wrong image or the end of the process."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from data import lmdb_writing
from data.dataset import read_dataset, without_bad_images
from data.images import decode, find_bad_images, read_bytes
from data.lmdb_index import append_seal
from data.lmdb_reading import read_lmdb
from data.lmdb_writing import write_lmdb
from data.options import DataOptions
from data.samples import Dataset, Sample
from utils.errors import DataError

SIZES = (100, 1000, 3000, 9000)
"""Of images: small ones lie in a page of the index, large ones in pages of their own."""


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Paths and bytes of as many images as make an index of several pages."""
    numbers = random.Random(0)
    return {f"train/{number:03d}.jpg": numbers.randbytes(SIZES[number % 4]) for number in range(100)}


@pytest.fixture
def packed(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    root, out = tmp_path / "set", tmp_path / "set.lmdb"
    (root / "train").mkdir(parents=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    write_lmdb(out, root, Dataset([Sample(root / name, 1, 0) for name in contents], [], [], []), "folders")
    return out


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def message(packed: Path, contents: dict[str, bytes]) -> str:
    """What is said when the whole file is read; "" if everything in it is as it was."""
    try:
        assert [sample.path for sample in read_lmdb(packed).train] == [packed / name for name in contents]
        assert {name: read_bytes(packed / name) for name in contents} == contents
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_image_is_named_and_the_others_are_read(
    number: int, packed: Path, contents: dict[str, bytes]
) -> None:
    damaged = f"train/{number:03d}.jpg"
    file = packed.read_bytes()
    # LMDB may have left an older copy of a small one behind.
    starts = [found.start() for found in re.finditer(re.escape(contents[damaged]), file)]
    for place in (0, SIZES[number] // 2, SIZES[number] - 1):
        for start in starts:
            flip(packed, start + place)
        for name, content in contents.items():
            if name != damaged:
                assert read_bytes(packed / name) == content
        with pytest.raises(DataError, match=re.escape(f"{packed}/{damaged}: this record of the LMDB is damaged")):
            read_bytes(packed / damaged)
        packed.write_bytes(file)


def test_a_damaged_image_can_be_skipped(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    images = [draw_image(tmp_path / "set" / "ann" / f"{number}.png", seed=number) for number in range(3)]
    out = tmp_path / "set.lmdb"
    write_lmdb(out, tmp_path / "set", Dataset([Sample(path, 1, 0) for path in images], [], [], []), "folders")
    flip(out, out.read_bytes().index(images[1].read_bytes()) + 2000)
    options = DataOptions(batches_dir=str(out), bad_images="skip")
    dataset = read_dataset(options)
    assert [sample.path.name for sample in without_bad_images(dataset, options).train] == ["0.png", "2.png"]
    (bad,) = find_bad_images([sample.path for sample in dataset.train])
    assert bad.path == out / "ann" / "1.png"
    assert bad.reason.startswith("this record of the LMDB is damaged")


def test_no_other_damage_goes_unnoticed_or_kills_the_process(packed: Path, contents: dict[str, bytes]) -> None:
    """Bits all over the file are flipped; where something reads them, there is a message."""
    file = packed.read_bytes()
    draw = random.Random(1)
    places = [
        *range(0, len(file), 1999),
        *range(len(file) - 60, len(file), 5),
        *range(0, 200, 9),
        *range(8192, 8300, 9),
    ]
    messages = []
    for place in places:
        flip(packed, place, draw.randrange(8))
        messages.append(message(packed, contents))
        packed.write_bytes(file)
    assert all(text.startswith(str(packed)) for text in messages if text)
    assert sum(map(bool, messages)) > len(places) // 3


def test_pages_of_noise_are_noticed(packed: Path, contents: dict[str, bytes]) -> None:
    """Every page in turn; only pages that LMDB has given up may hold what they like."""
    file = packed.read_bytes()
    noise = random.Random(2).randbytes(4096)
    messages = []
    for start in range(0, len(file), 4096):
        packed.write_bytes(file[:start] + noise[: len(file) - start] + file[start + 4096 :])
        messages.append(message(packed, contents))
    assert all(text.startswith(str(packed)) for text in messages if text)
    assert messages.count("") < 10


def test_a_file_that_was_cut_short_is_refused(packed: Path, contents: dict[str, bytes]) -> None:
    file = packed.read_bytes()
    for length in (*range(0, len(file), 4096), *range(1, len(file), 5003), len(file) - 1):
        packed.write_bytes(file[:length])
        with pytest.raises(DataError, match=rf"^{packed}: cut short, or no data set packed by build_lmdb; pack"):
            read_lmdb(packed)
    # With its end, but not all of its middle.
    packed.write_bytes(file[:-8192] + file[-4096:])
    with pytest.raises(DataError, match=rf"^{packed}: damaged: \d+ bytes where \d+ were written"):
        read_lmdb(packed)


@pytest.mark.parametrize("content", [b"", b"text", b"text" * 5000, b"\0" * 20000, b"\xff" * 7 + b"reid-end"])
def test_another_file_of_this_name_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.lmdb"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"notes\.lmdb: .*; pack the data set anew with train\.py --operation"):
        read_dataset(DataOptions(batches_dir=str(path)))
    with pytest.raises(DataError, match=r"notes\.lmdb"):
        decode(path / "a.jpg")


def test_an_lmdb_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0001_c1.jpg", b"image")
    with pytest.raises(DataError, match=rf"^{path}: cut short, or no data set packed by build_lmdb"):
        read_lmdb(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/missing\.lmdb: cannot be read \(No such file or directory\)"):
        read_dataset(DataOptions(batches_dir=str(tmp_path / "missing.lmdb")))


def test_a_later_format_is_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writing, "FORMAT", 2)
    root = tmp_path / "set"
    write_lmdb(tmp_path / "new.lmdb", root, Dataset([Sample(root / "train/000.jpg", 1, 0)], [], [], []), "folders")
    with pytest.raises(DataError, match=r"new\.lmdb: format 2; this version reads format 1; pack the data set anew"):
        read_lmdb(tmp_path / "new.lmdb")


@pytest.mark.parametrize("relative", ["/etc/hosts", "../secret.jpg", "a/../../secret.jpg"])
def test_a_path_that_leads_out_of_the_file_is_refused(
    relative: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_writing, "_relative", lambda path, root: relative)
    root = tmp_path / "set"
    write_lmdb(tmp_path / "new.lmdb", root, Dataset([Sample(root / "train/000.jpg", 1, 0)], [], [], []), "folders")
    with pytest.raises(DataError, match=r"leads out of the LMDB"):
        read_lmdb(tmp_path / "new.lmdb")


def test_a_file_arranged_otherwise_is_not_sealed(tmp_path: Path) -> None:
    path = tmp_path / "plain.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    size = path.stat().st_size
    with pytest.raises(RuntimeError, match="1 pages found in an LMDB of 3"):
        append_seal(path, 3)
    assert path.stat().st_size == size
