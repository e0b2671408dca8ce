"""Damaged checkpoints and feature files are read as they were written or refused with a message."""

import collections
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from data.features import read_features
from tests.reliability import files
from tests.reliability.damage import damaged
from tests.reliability.files import outcome
from utils.checkpoint import load_tensors
from utils.errors import DataError

READ: dict[Callable[[Path], None], Callable[[Path], Any]] = {
    files.write_checkpoint: load_tensors,
    files.write_foreign_checkpoint: load_tensors,
    files.write_feature_file: read_features,
    files.write_foreign_feature_file: read_features,
    files.write_compressed_feature_file: read_features,
}
COUNTS = [300, pytest.param(2000, marks=pytest.mark.slow)]


def outcomes(path: Path, read: Callable[[Path], Any], versions: Iterable[bytes]) -> collections.Counter[str]:
    """The outcomes of reading damaged versions of a file."""
    original, found = read(path), collections.Counter[str]()
    for version in versions:
        path.write_bytes(version)
        found[outcome(path, original, read)] += 1
    return found


@pytest.mark.parametrize("write", READ)
@pytest.mark.parametrize("count", COUNTS)
def test_no_damage_changes_what_is_read(write: Callable[[Path], None], count: int, tmp_path: Path) -> None:
    """Damage to bytes that are not read, such as the time of an entry, is not noticed."""
    path = tmp_path / "file.npz"
    write(path)
    found = outcomes(path, READ[write], damaged(path.read_bytes(), count, seed=count))
    assert found["changed"] == 0
    assert found["refused"] > count / 2


@pytest.mark.parametrize("write", [files.write_foreign_checkpoint, files.write_foreign_feature_file])
@pytest.mark.parametrize("bits", [range(1), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=["one", "others"])
def test_no_bit_of_a_directory_changes_what_is_read(write: Callable[[Path], None], bits: range, tmp_path: Path) -> None:
    """The directory of the archive has no checksum."""
    path = tmp_path / "file.npz"
    write(path)
    content = path.read_bytes()

    def flipped() -> Iterable[bytes]:
        for place in range(content.index(b"PK\1\2"), len(content)):
            for bit in bits:
                changed = bytearray(content)
                changed[place] ^= 1 << (place + bit) % 8
                yield bytes(changed)

    found = outcomes(path, READ[write], flipped())
    assert found["changed"] == 0
    assert found["refused"] > 100


@pytest.mark.parametrize("count", COUNTS)
def test_damage_to_a_legacy_checkpoint_ends_in_nothing_but_a_message(count: int, tmp_path: Path) -> None:
    """It has no checksums, so that changed numbers are not noticed."""
    path = tmp_path / "legacy.pth"
    files.write_legacy_checkpoint(path)
    assert outcomes(path, load_tensors, damaged(path.read_bytes(), count, seed=count))["refused"] > count / 10


def test_damage_is_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    files.write_checkpoint(path)
    content = path.read_bytes()
    for changed in (content[:-1], content[: len(content) // 2], content.replace(b"market", b"markup")):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"model_best\.pth: damaged: .*take another copy"):
            load_tensors(path)


def test_a_checkpoint_with_a_comment_is_read(tmp_path: Path) -> None:
    """Earlier versions wrote a checksum into the comment of the archive."""
    path = tmp_path / "model_best.pth"
    files.write_checkpoint(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + (71).to_bytes(2, "little") + b"sha256:" + b"0" * 64)
    assert load_tensors(path)["labels"] == [3, 7, 12]
