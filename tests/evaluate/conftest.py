"""Image files small enough to make for each test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

Colour = tuple[int, int, int]


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
