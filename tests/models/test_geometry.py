"""Sizes of feature maps and of erased bands, against slow references."""

from itertools import product

import pytest

from models.backbones.registry import map_size
from models.erasing import band_rows
from models.options import ModelParams


def halved(size: int, kernel: int, pad: int) -> int:
    """Slow reference: counts the places where a stride-2 kernel fits."""
    return len(range(0, size + 2 * pad - kernel + 1, 2))


@pytest.mark.parametrize(("size", "last_conv_stride"), list(product(range(16, 200), (1, 2))))
def test_feature_map_is_what_the_convolutions_leave(size: int, last_conv_stride: int) -> None:
    rows = halved(halved(size, 7, 3), 3, 1)
    for _ in range(1 + last_conv_stride):
        rows = halved(rows, 3, 1)
    options = ModelParams.model_validate({"last_conv_stride": last_conv_stride})
    assert map_size(options, (size, 128)) == (rows, 128 // (16 * last_conv_stride))


@pytest.mark.parametrize(("rows", "share"), list(product(range(1, 25), (0.01, 0.1, 0.3, 0.66, 0.9, 0.99))))
def test_no_other_band_is_nearer_to_its_share(rows: int, share: float) -> None:
    nearest = min(abs(band - share * rows) for band in range(rows + 1))
    assert abs(band_rows(rows, share) - share * rows) == nearest
