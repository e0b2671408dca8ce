"""A layout is one file and one entry of the registry: this one is added here, and read by the usual functions."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from data.dataset import find_root, read_dataset
from data.layouts import LayoutChoice, describe_layouts, read_layout
from data.layouts.layout import Layout, images
from data.layouts.registry import LAYOUTS
from data.lmdb.writing import pack_dataset
from data.options import DataOptions
from data.samples import Dataset, Sample


def read_flat(root: Path) -> Dataset:
    """flat/CAMERA-PID.png, all for training."""
    names = [(path, *path.stem.split("-")) for path in images(root / "flat")]
    return Dataset([Sample(path, int(pid), int(camid)) for path, camid, pid in names], [], [], [])


FLAT = Layout(lambda root: (root / "flat").is_dir(), read_flat, "flat with images named like 3-0007.png")


def test_a_new_layout_is_detected_read_described_and_packed(
    tmp_path: Path, draw_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYOUTS, "flat", FLAT)
    for name in ("3-0007", "1-0002"):
        draw_image(tmp_path / "set" / "flat" / f"{name}.png")
    options = DataOptions(batches_dir=str(tmp_path / "set"))
    dataset = read_dataset(options)
    assert [sample[1:] for sample in dataset.train] == [(2, 1), (7, 3)]
    assert dataset == read_layout(tmp_path / "set", "flat")
    assert find_root(options) == (tmp_path / "set", "flat")
    assert "flat: flat with images" in describe_layouts("auto")
    assert [len(split) for split in pack_dataset(tmp_path / "set.lmdb", options)] == [2, 0, 0, 0]
    assert len(read_dataset(DataOptions(batches_dir=str(tmp_path / "set.lmdb"))).train) == 2


def test_a_layout_can_be_named_in_the_params() -> None:
    assert get_args(LayoutChoice) == ("auto", *LAYOUTS)
    for name in LAYOUTS:
        assert DataOptions(data_layout=name).data_layout == name
