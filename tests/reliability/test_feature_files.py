"""Damaged feature files: read as they were written, or refused with a message, and never anything else."""

import collections
from collections.abc import Callable
from pathlib import Path

import pytest

from data.features import read_features
from tests.reliability.damage import damaged
from tests.reliability.feature_files import outcome, write_compressed, write_foreign, write_ours


def outcomes(path: Path, write: Callable[[Path], None], count: int) -> collections.Counter[str]:
    """What becomes of damaged versions of a file."""
    write(path)
    original, content = read_features(path), path.read_bytes()
    found = collections.Counter[str]()
    for changed in damaged(content, count, seed=count):
        path.write_bytes(changed)
        found[outcome(path, original)] += 1
    return found


@pytest.mark.parametrize("write", [write_ours, write_foreign, write_compressed])
@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damage_changes_what_is_read(write: Callable[[Path], None], count: int, tmp_path: Path) -> None:
    """It may be in bytes that nobody reads, such as the time of an entry: then all is as it was."""
    found = outcomes(tmp_path / "file.npz", write, count)
    assert found["changed"] == 0
    assert found["refused"] > count / 2
