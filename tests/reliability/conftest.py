"""What the tests of failing disks share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk with room for several times what a run of a small ResNet writes."""
    with small_disk(tmp_path / "disk", "600m") as disk:
        yield disk
