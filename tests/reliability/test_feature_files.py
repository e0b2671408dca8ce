"""Damaged feature files: read as they were written, or refused with a message, and never anything else."""

import collections
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.features import read_features
from tests.reliability.damage import damaged
from tests.reliability.feature_files import outcome, write_compressed, write_foreign, write_ours
from utils.errors import DataError
from utils.seal import Seal, read_seal


def outcomes(path: Path, write: Callable[[Path], None], count: int) -> collections.Counter[str]:
    """What becomes of damaged versions of a file."""
    write(path)
    original, content = read_features(path), path.read_bytes()
    found = collections.Counter[str]()
    for changed in damaged(content, count, seed=count):
        path.write_bytes(changed)
        found[outcome(path, original)] += 1
    return found


def test_any_damage_to_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    assert outcomes(tmp_path / "ours.npz", write_ours, 300) == {"refused": 300}


@pytest.mark.parametrize("write", [write_foreign, write_compressed])
def test_no_damage_to_a_foreign_file_changes_what_is_read(write: Callable[[Path], None], tmp_path: Path) -> None:
    """It may be in bytes that nobody reads, such as the time of an entry: then all is as it was."""
    found = outcomes(tmp_path / "foreign.npz", write, 300)
    assert found["changed"] == 0
    assert found["refused"] > 150


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_ours, write_foreign, write_compressed])
def test_thousands_of_damaged_files(write: Callable[[Path], None], tmp_path: Path) -> None:
    found = outcomes(tmp_path / "file.npz", write, 2000)
    print(write.__name__, dict(found))
    assert found["changed"] == 0
    assert write is not write_ours or found["refused"] == 2000


@pytest.mark.slow
def test_no_bit_of_a_directory_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    write_foreign(path)
    original, content = read_features(path), path.read_bytes()
    found = collections.Counter[str]()
    for place in range(content.index(b"PK\1\2"), len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            found[outcome(path, original)] += 1
    print(dict(found))
    assert found["changed"] == 0


def test_an_optional_array_does_not_get_lost(tmp_path: Path) -> None:
    """One bit makes the last entry of the directory the comment on the one before it."""
    path = tmp_path / "foreign.npz"
    write_foreign(path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"PK\1\2"))
    content[entry + 32] ^= 0x40
    path.write_bytes(content)
    with zipfile.ZipFile(path) as reader:
        assert "branch_dims.npy" not in reader.namelist()
    with pytest.raises(DataError, match="it has 6 entries, and should have 7"):
        read_features(path)


def test_a_file_of_ours_is_sealed_and_is_numpys_still(tmp_path: Path) -> None:
    path = tmp_path / "ours.npz"
    write_ours(path)
    with path.open("rb") as file:
        assert read_seal(file) is Seal.WHOLE
    with np.load(path, allow_pickle=False) as content:
        assert content["gallery_features"].shape == (9, 4)
