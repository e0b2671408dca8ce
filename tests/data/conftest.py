from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw_image() -> Callable[..., Path]:
    """Writes a noisy image of its own colour and returns its path."""

    def draw(path: Path, width: int = 64, height: int = 128, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return draw


@pytest.fixture
def paths(tmp_path: Path, draw_image: Callable[..., Path]) -> list[Path]:
    """Seven images."""
    return [draw_image(tmp_path / f"{index}.png", seed=index) for index in range(7)]


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """Makes a folder of files from {path: text}. Layouts never open an image, so an empty file serves as one."""

    def make(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return tmp_path / "set"

    return make
