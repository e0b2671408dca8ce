"""Damaged checkpoints: read as they were written, or refused with one message, and never anything else."""

import collections
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.reliability.checkpoints import outcome, write_before_archives, write_foreign, write_ours
from tests.reliability.damage import damaged
from utils.checkpoint import load_tensors
from utils.errors import DataError

Write = Callable[[Path], None]
COUNTS = [300, pytest.param(2000, marks=pytest.mark.slow)]


def outcomes(path: Path, write: Write, count: int) -> collections.Counter[str]:
    """What becomes of damaged versions of a file."""
    write(path)
    original, content = load_tensors(path), path.read_bytes()
    found = collections.Counter[str]()
    for changed in damaged(content, count, seed=count):
        path.write_bytes(changed)
        found[outcome(path, original)] += 1
    return found


@pytest.mark.parametrize("write", [write_ours, write_foreign])
@pytest.mark.parametrize("count", COUNTS)
def test_no_damage_changes_what_is_read(write: Write, count: int, tmp_path: Path) -> None:
    """It may be in bytes that nobody reads, such as the time of an entry: then all is as it was."""
    found = outcomes(tmp_path / "file.pth", write, count)
    assert found["changed"] == 0
    assert found["refused"] > count / 2


@pytest.mark.parametrize("count", COUNTS)
def test_damage_to_a_file_of_old_torch_is_refused_or_not_seen(count: int, tmp_path: Path) -> None:
    """It has no checksum: changed numbers pass for what was trained. But nothing else than that or a message comes."""
    path = tmp_path / "old.pth"
    assert outcomes(path, write_before_archives, count)["refused"] > count / 10
    write_before_archives(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError):
        load_tensors(path)


@pytest.mark.parametrize(
    "bits", [range(1), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=["one", "the others"]
)
def test_no_bit_of_a_directory_changes_what_is_read(bits: range, tmp_path: Path) -> None:
    """The directory, which has no checksum, says what the file holds and where."""
    path = tmp_path / "foreign.pth"
    torch.save({"a": torch.arange(3.0), "b": torch.ones(3)}, path)
    original, content = load_tensors(path), path.read_bytes()
    found = collections.Counter[str]()
    for place in range(content.index(b"PK\1\2"), len(content)):
        for bit in bits:
            changed = bytearray(content)
            changed[place] ^= 1 << (place + bit) % 8
            path.write_bytes(changed)
            found[outcome(path, original)] += 1
    print(dict(found))
    assert found["changed"] == 0
    assert found["refused"] > 100


def test_damage_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    write_ours(path)
    content = path.read_bytes()
    for changed in (content[:-1], content[: len(content) // 2], content.replace(b"market", b"markup")):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"model_best\.pth: damaged: .*take another copy"):
            load_tensors(path)


def test_a_file_with_a_comment_is_read(tmp_path: Path) -> None:
    """Earlier versions ended their files with a checksum in the archive's comment."""
    path = tmp_path / "model_best.pth"
    write_ours(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + (71).to_bytes(2, "little") + b"sha256:" + b"0" * 64)
    assert load_tensors(path)["labels"] == [3, 7, 12]
