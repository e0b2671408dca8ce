from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.images import BadImage, decode, find_bad_images
from utils.errors import DataError


def test_png_pixels_come_back_unchanged(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    path = draw_image(tmp_path / "a.png", seed=3)
    expected = np.random.default_rng(3).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(path), expected)
    np.testing.assert_array_equal(decode(path, 128, 64), expected)


def test_another_size_is_resized(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    assert decode(draw_image(tmp_path / "a.jpg"), 96, 32).shape == (96, 32, 3)


def test_what_is_no_image_is_named(tmp_path: Path, draw_image: Callable[..., Path]) -> None:
    good = draw_image(tmp_path / "good.jpg")
    truncated, text, empty, missing = (tmp_path / f"{name}.jpg" for name in ("truncated", "text", "empty", "missing"))
    truncated.write_bytes(good.read_bytes()[:1000])
    text.write_text("no image")
    empty.write_bytes(b"")
    for path in (truncated, text, empty, missing):
        with pytest.raises(DataError, match=path.name):
            decode(path)
    bad = find_bad_images([text, good, truncated, missing, empty])
    assert [item.path for item in bad] == [text, truncated, missing, empty]
    assert all(
        isinstance(item, BadImage) and item.reason and str(item.path.parent) not in item.reason for item in bad[:2]
    )
