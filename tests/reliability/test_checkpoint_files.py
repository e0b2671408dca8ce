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


def outcomes(path: Path, write: Callable[[Path], None], count: int) -> collections.Counter[str]:
    """What becomes of damaged versions of a file."""
    write(path)
    original, content = load_tensors(path), path.read_bytes()
    found = collections.Counter[str]()
    for changed in damaged(content, count, seed=count):
        path.write_bytes(changed)
        found[outcome(path, original)] += 1
    return found


def test_any_damage_to_a_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    assert outcomes(tmp_path / "ours.pth", write_ours, 300) == {"refused": 300}


def test_no_damage_to_a_foreign_checkpoint_changes_what_is_read(tmp_path: Path) -> None:
    """It may be in bytes that nobody reads, such as the time of an entry: then all is as it was."""
    found = outcomes(tmp_path / "foreign.pth", write_foreign, 300)
    assert found["changed"] == 0
    assert found["refused"] > 150


def test_damage_to_a_file_of_old_torch_is_refused_or_not_seen(tmp_path: Path) -> None:
    """It has no checksum: changed numbers pass for what was trained. But nothing else than that or a message comes."""
    found = outcomes(tmp_path / "old.pth", write_before_archives, 300)
    assert found["refused"] > 30
    write_before_archives(tmp_path / "old.pth")
    (tmp_path / "old.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:-1])
    with pytest.raises(DataError):
        load_tensors(tmp_path / "old.pth")


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_ours, write_foreign, write_before_archives])
def test_thousands_of_damaged_files(write: Callable[[Path], None], tmp_path: Path) -> None:
    found = outcomes(tmp_path / "file.pth", write, 2000)
    print(write.__name__, dict(found))
    assert write is write_before_archives or found["changed"] == 0
    assert write is not write_ours or found["refused"] == 2000


def flip_each_bit(path: Path, bits: range) -> collections.Counter[str]:
    """What becomes of a foreign file in whose directory, where it says what it holds and where, one bit is changed."""
    torch.save({"a": torch.arange(3.0), "b": torch.ones(3)}, path)
    original, content = load_tensors(path), path.read_bytes()
    found = collections.Counter[str]()
    for place in range(content.index(b"PK\1\2"), len(content)):
        for bit in bits:
            changed = bytearray(content)
            changed[place] ^= 1 << (place + bit) % 8
            path.write_bytes(changed)
            found[outcome(path, original)] += 1
    return found


@pytest.mark.parametrize(
    "bits", [range(1), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=["one", "the others"]
)
def test_no_bit_of_a_directory_changes_what_is_read(bits: range, tmp_path: Path) -> None:
    found = flip_each_bit(tmp_path / "foreign.pth", bits)
    print(dict(found))
    assert found["changed"] == 0
    assert found["refused"] > found["equal"]


def test_damage_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    write_ours(path)
    content = path.read_bytes()
    for changed in (content[:-1], content[:-71], content[: len(content) // 2], content + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"damaged: its end is missing; take another copy"):
            load_tensors(path)
    for changed in (content + content, content.replace(b"market", b"markup")):
        path.write_bytes(changed)
        with pytest.raises(
            DataError, match=r"^[^(]*: damaged: its content does not fit its checksum; take another copy"
        ):
            load_tensors(path)
