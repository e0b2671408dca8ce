"""The picture of a confusion matrix: what stands in which cell, and how it copes with names of any kind."""

import numpy as np
import pytest
import torch

from evaluate.core.classification.confusion import EMPTY, confusion_picture
from evaluate.core.pictures import RIGHT, WHITE, WRONG


def area(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour, dtype=np.uint8)).all(axis=2).sum())


def corner(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Upper and left edge of the only cell of a plain colour."""
    ys, xs = (picture == np.array(colour, dtype=np.uint8)).all(axis=2).nonzero()
    return int(ys.min()), int(xs.min())


def test_right_is_green_on_the_diagonal_and_wrong_is_red_beside_it() -> None:
    # One image of class a, recognised; one of b, taken for a.
    picture = confusion_picture(torch.tensor([[1, 0, 0], [1, 0, 0]]), ["a", "b"], num_classes=2)
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    (right_top, right_left), (wrong_top, wrong_left) = corner(picture, RIGHT), corner(picture, WRONG)
    assert wrong_left == right_left
    assert wrong_top - right_top == 46
    # Full shares, but for the digits and the corners; the two empty cells stand in the other column.
    assert area(picture, RIGHT) > 0.8 * 44**2
    assert area(picture, WRONG) > 0.8 * 44**2
    assert area(picture, EMPTY) == pytest.approx(2 * 44**2, rel=0.02)
    assert corner(picture, EMPTY)[1] - right_left == 46
    for edge in (picture[:12], picture[-12:], picture[:, :12], picture[:, -12:]):
        assert (edge == WHITE).all()


def test_a_larger_share_is_deeper_and_the_least_is_visible() -> None:
    def redness(wrong: int) -> float:
        picture = confusion_picture(torch.tensor([[1000 - wrong, wrong, 0], [0, 1, 0]]), ["a", "b"], num_classes=2)
        bright = picture.astype(int)
        return float((bright[..., 0] - bright[..., 1]).clip(20).mean())

    shares = [redness(wrong) for wrong in (0, 1, 300, 600, 1000)]
    assert shares == sorted(set(shares))


def test_a_class_without_images_has_an_empty_row() -> None:
    picture = confusion_picture(torch.tensor([[2, 0, 0], [0, 0, 0]]), ["a", "b"], num_classes=2)
    assert area(picture, WRONG) == 0
    assert area(picture, EMPTY) == pytest.approx(3 * 44**2, rel=0.02)


def test_classes_that_are_not_shown_have_a_column_of_their_own() -> None:
    counts = torch.tensor([[0, 0, 3], [0, 3, 0]])
    part, whole = (confusion_picture(counts, ["a", "b"], num_classes=number) for number in (3, 2))
    assert area(part, WRONG) > 0.8 * 44**2
    assert area(whole, WRONG) == 0
    wrong, right = corner(part, WRONG), corner(part, RIGHT)
    assert (wrong[0] < right[0], wrong[1] > right[1]) == (True, True)


@pytest.mark.parametrize("names", [["x" * 300, "y"], ["a", "b"], ["", "é"], ["a" * 20, "bicycle, red"]])
def test_names_of_any_length_fit_the_picture(names: list[str]) -> None:
    picture = confusion_picture(torch.tensor([[1, 0, 0], [0, 1, 0]]), names, num_classes=2)
    assert picture.shape[0] < 450
    assert picture.shape[1] < 550
    for edge in (picture[:12], picture[-12:], picture[:, :12], picture[:, -12:]):
        assert (edge == WHITE).all()


def test_shortened_names_still_differ_at_their_ends() -> None:
    counts = torch.tensor([[1, 0, 0], [0, 1, 0]])
    one, two = (confusion_picture(counts, ["a" * 60 + end, "b"], num_classes=2) for end in ("1", "2"))
    assert one.shape != two.shape or (one != two).any()


@pytest.mark.parametrize("size", [1, 12, 13, 31, 100])
def test_many_classes_make_a_picture_that_can_be_looked_at(size: int) -> None:
    counts = torch.cat([torch.eye(size, dtype=torch.int64), torch.zeros(size, 1, dtype=torch.int64)], dim=1)
    picture = confusion_picture(counts, [f"class {index}" for index in range(size)], num_classes=size)
    assert max(picture.shape) < 3600
    assert area(picture, RIGHT) > 0.6 * size * 30**2
