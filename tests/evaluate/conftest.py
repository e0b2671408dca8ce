"""Image files small enough to make for each test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

Colour = tuple[int, int, int]
RED, DARK_RED, GREEN, DARK_GREEN, BLUE = (250, 0, 0), (180, 0, 0), (0, 250, 0), (0, 170, 0), (0, 0, 250)


@pytest.fixture
def market_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a data set in Market-1501's layout from {file name: colour} for query and gallery."""

    def make(query: Mapping[str, Colour], gallery: Mapping[str, Colour]) -> Path:
        train = {"0001_c1_0.png": (0, 0, 0), "0002_c1_0.png": (9, 9, 9)}
        for split, images in (("bounding_box_train", train), ("query", query), ("bounding_box_test", gallery)):
            (tmp_path / "set" / split).mkdir(parents=True)
            for name, colour in images.items():
                Image.new("RGB", (16, 32), colour).save(tmp_path / "set" / split / name)
        return tmp_path / "set"

    return make


@pytest.fixture
def image_files(tmp_path: Path) -> Callable[[Sequence[Colour]], list[Path]]:
    """Writes plain images, by turns as PNG and JPEG."""

    def make(colours: Sequence[Colour]) -> list[Path]:
        paths = [tmp_path / f"{place:02}.{'jpg' if place % 2 else 'png'}" for place in range(len(colours))]
        for path, colour in zip(paths, colours, strict=True):
            Image.new("RGB", (20, 40), colour).save(path, quality=95)
        return paths

    return make


@pytest.fixture
def msmt_folder(tmp_path: Path) -> Path:
    """MSMT17 with persons 0 and 1. Person 0's query meets its true match first, person 1's a wrong image."""
    splits: dict[str, dict[str, Colour]] = {
        "query": {"0000_000_01_a": RED, "0001_000_01_a": GREEN},
        "gallery": {
            "0000_001_02_a": DARK_RED,
            "0001_001_01_a": GREEN,  # the query's own camera: ignored
            "0002_000_03_a": (0, 240, 0),
            "0001_002_02_a": DARK_GREEN,
        },
    }
    folder = tmp_path / "msmt"
    for split, images in splits.items():
        for name, colour in images.items():
            path = folder / "mask_test_v2" / name[:4] / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 32), colour).save(path)
        lines = (f"{name[:4]}/{name}.png {int(name[:4])}\n" for name in images)
        (folder / f"list_{split}.txt").write_text("".join(lines))
    return folder
