"""A damaged LMDB file gives one message that names it, and never a wrong image."""

import os
import random
import re
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import lmdb
import pytest

from data.dataset import read_dataset, without_bad_images
from data.images import find_bad_images, image_exists, read_bytes
from data.lmdb import reading, writing
from data.lmdb.reading import read_lmdb
from data.lmdb.writing import write_lmdb
from data.options import DataOptions
from data.samples import Dataset, Sample
from tests.conftest import ROOT
from utils.errors import DataError

SIZES = (100, 1000, 3000, 9000)
"""Of images: LMDB stores small ones inside its tree, large ones in pages of their own."""


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Paths and bytes of enough images for a tree of several pages."""
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


def flip(path: Path, content: bytes, offset: int) -> None:
    """Change one bit in every copy of the content; LMDB may have left an older copy behind."""
    file = path.read_bytes()
    changed = bytearray(file)
    for found in re.finditer(re.escape(content), file):
        changed[found.start() + offset] ^= 1
    assert changed != file
    replace(path, bytes(changed))


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("offset", [0, 50, -1])
def test_a_damaged_image_is_named_and_the_others_are_read(
    number: int, offset: int, packed: Path, contents: dict[str, bytes]
) -> None:
    damaged = f"train/{number:03d}.jpg"
    flip(packed, contents[damaged], offset % SIZES[number])
    for name, content in contents.items():
        if name != damaged:
            assert read_bytes(packed / name) == content
    with pytest.raises(DataError, match=re.escape(f"{packed}/{damaged}: this record of the LMDB is damaged")):
        read_bytes(packed / damaged)


def test_a_damaged_image_can_be_skipped(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    images = [draw_image(tmp_path / "set" / "ann" / f"{number}.png", seed=number) for number in range(3)]
    out = tmp_path / "set.lmdb"
    write_lmdb(out, tmp_path / "set", Dataset([Sample(path, 1, 0) for path in images], [], [], []), "folders")
    flip(out, images[1].read_bytes(), 2000)
    options = DataOptions(batches_dir=str(out), bad_images="skip")
    dataset = read_dataset(options)
    assert [sample.path.name for sample in without_bad_images(dataset, options).train] == ["0.png", "2.png"]
    (bad,) = find_bad_images([sample.path for sample in dataset.train])
    assert bad.path == out / "ann" / "1.png"
    assert bad.reason.startswith("this record of the LMDB is damaged")


def test_a_damaged_sample_or_description_is_noticed(packed: Path) -> None:
    file = packed.read_bytes()
    for content, problem in ((b'"path":"train/007.jpg"', "sample 7 is invalid"), (b'"test_list":', "damaged, or not")):
        flip(packed, content, 1)
        with pytest.raises(DataError, match=rf"^{packed}: damaged.*{problem}|^{packed}: {problem}"):
            read_lmdb(packed)
        replace(packed, file)


@pytest.mark.parametrize("relative", ["/etc/hosts", "../secret.jpg", "a/../../secret.jpg"])
def test_a_path_that_leads_out_of_the_file_is_refused(relative: str, tmp_path: Path) -> None:
    """Such a path would be read from the disk, whoever made the file."""
    inside = tmp_path / "set" / "x.jpg"
    inside.parent.mkdir()
    inside.write_bytes(b"content")
    out, add_checksum = tmp_path / "set.lmdb", writing.add_checksum

    def forge(key: bytes, content: bytes) -> bytes:
        return add_checksum(key, content.replace(b'"x.jpg"', f'"{relative}"'.encode()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "add_checksum", forge)
        write_lmdb(out, inside.parent, Dataset([Sample(inside, 1, 0)], [], [], []), "folders")
    with pytest.raises(DataError, match=rf"^{out}: {relative} leads out of the LMDB"):
        read_lmdb(out)


def test_an_error_of_lmdb_names_the_image(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> NoReturn:
        raise lmdb.PageNotFoundError("no such page")

    opened = reading._opened(packed)
    monkeypatch.setattr(reading, "_opened", lambda _: opened._replace(environment=SimpleNamespace(begin=fail)))
    with pytest.raises(DataError, match=re.escape(f"{packed}/train/000.jpg: this record cannot be read")):
        read_bytes(packed / "train/000.jpg")
    assert not image_exists(packed / "train/000.jpg")


def test_a_truncated_file_is_refused(packed: Path) -> None:
    file = packed.read_bytes()
    for length in (*range(0, len(file), 8192), *range(1, len(file), 25003), len(file) - 1):
        replace(packed, file[:length])
        with pytest.raises(DataError, match=rf"^{packed}: (truncated|cannot be read as LMDB).*build_lmdb"):
            read_lmdb(packed)


def test_what_another_program_wrote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.lmdb"
    for content in (b"", b"text", b"text" * 5000, bytes(20000)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{path}: cannot be read as LMDB"):
            read_lmdb(path)
    path.unlink()
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0001_c1.jpg", b"image")
    with pytest.raises(DataError, match=rf"^{path}: damaged, or not a data set packed by build_lmdb"):
        read_lmdb(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/missing\.lmdb: cannot be read \(No such file or directory\)"):
        read_dataset(DataOptions(batches_dir=str(tmp_path / "missing.lmdb")))


def test_a_later_format_is_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FORMAT", 2)
    root = tmp_path / "set"
    write_lmdb(tmp_path / "new.lmdb", root, Dataset([Sample(root / "train/000.jpg", 1, 0)], [], [], []), "folders")
    with pytest.raises(DataError, match=r"new\.lmdb: format 2; this version reads format 1"):
        read_lmdb(tmp_path / "new.lmdb")


def exit_code_of_reading(path: Path) -> int:
    """0: everything was read; 2: something was refused; 1: an error of ours."""
    code = 0
    try:
        for sample in read_lmdb(path).train:
            image_exists(sample.path)
            try:
                read_bytes(sample.path)
            except DataError:
                code = 2
    except DataError:
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    return code


def read_damaged_copies(packed: str) -> None:
    """Print how many of 100 copies with damaged pages were refused, ended their process and gave an error of ours."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    whole, copy, codes = Path(packed).read_bytes(), Path(packed).with_name("copy.lmdb"), list[int]()
    # Pages of the tree begin with their number and what they are; then follow the offsets of their entries.
    pages = [place for place in range(0, len(whole), PAGESIZE) if whole[place + 10] in (1, 2)]
    pages = [place for place in pages if whole[place : place + 8] == (place // PAGESIZE).to_bytes(8, "little")]
    for number in range(100):
        generator, content = random.Random(number), bytearray(whole)
        for page in generator.sample(pages, 3):
            content[page + generator.randrange(64)] = generator.randrange(256)
        copy.unlink(missing_ok=True)
        copy.write_bytes(content)
        if not (child := os.fork()):
            os._exit(exit_code_of_reading(copy))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(codes.count(2), sum(code < 0 for code in codes), codes.count(1))


def test_damage_to_lmdbs_own_pages_ends_in_a_message_or_a_signal(packed: Path) -> None:
    """LMDB does not check its pages and may crash, as reliability.md says."""
    code = "import sys; from tests.data.lmdb.test_damage import read_damaged_copies; read_damaged_copies(sys.argv[1])"
    command = [sys.executable, "-c", code, str(packed)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    num_refused, num_crashed, num_tracebacks = map(int, process.stdout.split())
    assert num_tracebacks == 0
    assert num_refused > num_crashed
