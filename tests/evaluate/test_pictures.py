"""The picture of rank lists: where things stand in it and which frames they wear."""

import numpy as np
import pytest

from evaluate.core.pictures import (
    CROP_HEIGHT,
    QUERY,
    RIGHT,
    WHITE,
    WRONG,
    RankedImage,
    RankList,
    rank_list_picture,
    spread_by_ap,
)

BLUE = (20, 40, 230)


def plain(height=128, width=64, colour=BLUE):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def ranked(*verdicts, image=None):
    return [
        RankedImage(plain() if image is None else image, 0.1 * place, correct)
        for place, correct in enumerate(verdicts, start=1)
    ]


def area(picture, colour):
    return int((picture == np.array(colour, dtype=np.uint8)).all(axis=2).sum())


def columns(picture, colour):
    """Number of separate columns of the picture in which a colour appears."""
    present = (picture == np.array(colour, dtype=np.uint8)).all(axis=2).any(axis=0)
    return int(present[0]) + int((present[1:] & ~present[:-1]).sum())


def test_frames_tell_right_from_wrong():
    picture = rank_list_picture([RankList(plain(), 0.5, ranked(True, False, False))])
    assert picture.dtype == np.uint8
    # The blue image parts each frame's column into its left and its right bar, joined by the bars above and below.
    assert [columns(picture, colour) for colour in (QUERY, RIGHT, WRONG)] == [1, 1, 2]
    assert area(picture, WRONG) == 2 * area(picture, RIGHT) > 0
    assert area(picture, BLUE) == 4 * 128 * 64
    for edge in (picture[:10], picture[-3:], picture[:, :10], picture[:, -10:]):
        assert (edge == WHITE).all()


def test_every_query_is_a_row_and_short_lists_leave_places_empty():
    one = rank_list_picture([RankList(plain(), 1.0, ranked(True, True, False))])
    three = rank_list_picture([RankList(plain(), 1.0, ranked(True, True, False))] * 2 + [RankList(plain(), 0.0, [])])
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] - one.shape[0] >= 2 * CROP_HEIGHT
    assert area(three, RIGHT) == 2 * area(one, RIGHT)
    assert area(three, BLUE) == 9 * 128 * 64


@pytest.mark.parametrize(("height", "width", "drawn"), [(256, 128, 64), (384, 128, 43), (64, 64, 128)])
def test_images_of_any_size_keep_the_proportions_of_the_query(height, width, drawn):
    image = plain(height, width)
    picture = rank_list_picture([RankList(image, 1.0, ranked(True, image=image))])
    assert area(picture, BLUE) == 2 * 128 * drawn


def test_queries_are_spread_from_worst_to_best():
    ap = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2])
    assert spread_by_ap(ap, 3).tolist() == [1, 3, 0]  # positions 0, 2.5 -> 2, 5 of the ascending order
    assert spread_by_ap(ap, 1).tolist() == [1]
    assert spread_by_ap(ap, 99).tolist() == [1, 5, 3, 2, 4, 0]


@pytest.mark.parametrize("count", range(1, 30))
def test_no_query_is_chosen_twice(count):
    chosen = spread_by_ap(np.zeros(29), count)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
