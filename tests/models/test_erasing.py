from collections import Counter

import pytest
import torch

from models.erasing import BandErasing, band_rows, draw_bands


@pytest.mark.parametrize(
    ("num_parts", "rows", "share", "band"), [(1, 24, 0.3, 7), (6, 24, 0.3, 1), (6, 24, 0.5, 2), (2, 4, 0.5, 1)]
)
def test_each_stripe_of_each_image_loses_one_band_of_the_size_asked_for(
    num_parts: int, rows: int, share: float, band: int
) -> None:
    assert band_rows(rows // num_parts, share) == band
    torch.manual_seed(0)
    erased = BandErasing(num_parts, share)(torch.ones(50, 3, rows, 2))
    for image in erased:
        for stripe in image.chunk(num_parts, dim=1):
            rows_left = [bool(row.all()) for row in stripe.transpose(0, 1)]
            assert all(bool(row.all()) or not bool(row.any()) for row in stripe.transpose(0, 1))
            gone = [place for place, is_left in enumerate(rows_left) if not is_left]
            assert gone == list(range(gone[0], gone[0] + band))


def test_every_place_of_a_band_is_equally_likely_and_images_differ() -> None:
    bands = draw_bands(6000, 2, 10, 2, torch.device("cpu"), torch.Generator().manual_seed(0))
    tops = [[row.index(True) for row in image.view(2, 5).tolist()] for image in bands]
    for part in range(2):
        counts = Counter(top[part] for top in tops)
        assert set(counts) == {0, 1, 2, 3}
        # Five standard deviations of a binomial with 6000 draws of probability 1/4.
        assert all(abs(count - 1500) < 5 * (6000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    # The stripes draw independently of each other: all 16 pairs of places occur.
    assert len({tuple(top) for top in tops}) == 16


def test_nothing_is_erased_in_evaluation_or_with_share_zero() -> None:
    feature_map = torch.ones(2, 3, 4, 2)
    assert BandErasing(2, 0.5).eval()(feature_map) is feature_map
    assert BandErasing(2, 0.0)(feature_map) is feature_map


def test_the_gradient_skips_erased_rows() -> None:
    feature_map = torch.ones(4, 3, 8, 2, requires_grad=True)
    erased = BandErasing(1, 0.5)(feature_map)
    erased.sum().backward()
    assert feature_map.grad is not None
    assert torch.equal(feature_map.grad != 0, erased != 0)
