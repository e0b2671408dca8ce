"""Neighbours of images against plain loops, and what is known of copies and of sets far apart."""

import math

import numpy as np
import pytest

from evaluate.core.generation.neighbours import (
    copy_threshold,
    nearest_images,
    neighbour_radii,
    precision_recall,
    share_nearer,
    share_of_copies,
)

BLOCKS = pytest.mark.parametrize("rows", [1, 4, 512])


def draw(seed: int, num: int, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return math.dist(left.tolist(), right.tolist())


def radii_by_loops(features: np.ndarray, k: int) -> list[float]:
    return [sorted(distance(x, y) for j, y in enumerate(features) if j != i)[k - 1] for i, x in enumerate(features)]


def share_within(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Share of the points that lie in a ball around any centre."""
    radii = radii_by_loops(centres, k)
    inside = [any(distance(x, y) <= radius for y, radius in zip(centres, radii, strict=True)) for x in points]
    return sum(inside) / len(inside)


@BLOCKS
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_loops(k: int, rows: int) -> None:
    real, generated = draw(0, 30), draw(1, 21) + np.array([2.0, 0.0, 0.0])
    expected = share_within(generated, real, k), share_within(real, generated, k)
    assert 0.1 < min(expected) < max(expected) < 1.0
    assert precision_recall(real, generated, k, rows) == expected
    assert precision_recall(real, generated, k, rows, neighbour_radii(real, k)) == expected
    assert neighbour_radii(real, k, rows) == pytest.approx(radii_by_loops(real, k))


def test_precision_and_recall_trade_places_with_the_sets_and_ignore_the_order() -> None:
    real, generated = draw(2, 40), 2.0 * draw(3, 30)
    precision, recall = precision_recall(real, generated)
    assert precision < recall
    assert precision_recall(generated, real) == (recall, precision)
    rng = np.random.default_rng(0)
    assert precision_recall(rng.permutation(real), rng.permutation(generated), rows=7) == (precision, recall)


def test_real_images_are_like_themselves_and_far_ones_are_not() -> None:
    real = draw(4, 30)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)


@BLOCKS
def test_a_generator_of_one_real_image_is_precise_and_makes_no_other(rows: int) -> None:
    real = 1e3 + np.random.default_rng(5).normal(size=(25, 64))
    assert precision_recall(real, np.repeat(real[3:4], 8, axis=0), rows=rows) == (1.0, 1 / 25)


@BLOCKS
def test_the_nearest_training_image_is_that_of_a_search(rows: int) -> None:
    generated, training = draw(6, 13), draw(7, 17)
    generated[4] = training[9]
    found = nearest_images(generated, training, rows)
    for row, image in enumerate(generated):
        every = [distance(image, other) for other in training]
        assert found.place[row] == every.index(min(every))
        assert found.distance[row] == pytest.approx(min(every), abs=1e-9)
    assert found.distance[4] == 0.0


@BLOCKS
def test_a_copy_is_at_distance_zero_however_long_the_features(rows: int) -> None:
    training = 1e3 + np.random.default_rng(5).normal(size=(25, 64))
    found = nearest_images(training[::-1], training, rows)
    assert found.place.tolist() == [*range(24, -1, -1)]
    assert not found.distance.any()


def test_of_equal_training_images_the_first_is_the_nearest() -> None:
    assert nearest_images(np.ones((2, 3)), np.ones((4, 3))).place.tolist() == [0, 0]


@BLOCKS
def test_the_share_of_copies_is_that_of_loops(rows: int) -> None:
    training, held_out = draw(8, 50), draw(9, 40) + 1.0
    generated = np.concatenate([draw(10, 20), training[:5] + 1e-3])
    nearest = sorted(min(distance(image, other) for other in training) for image in held_out)
    threshold = nearest[0] + 0.01 * 39 * (nearest[1] - nearest[0])
    copies = [min(distance(image, other) for other in training) < threshold for image in generated]
    assert 5 <= sum(copies) < 25
    assert copy_threshold(training, held_out, rows) == pytest.approx(threshold)
    assert share_of_copies(generated, training, held_out, rows) == sum(copies) / 25
    assert share_nearer(generated, training, threshold, rows) == sum(copies) / 25


def test_repeated_training_images_are_all_copies_and_new_images_hardly_ever() -> None:
    training, held_out, new = (draw(seed, 1000, dim=8) for seed in (11, 12, 13))
    assert share_of_copies(training[:300], training, held_out) == 1.0
    assert 0.0 < share_of_copies(new, training, held_out) < 0.03
    assert share_of_copies(held_out, training, held_out) == 0.01


def test_held_out_images_that_repeat_training_images_leave_nothing_to_tell_copies_by() -> None:
    training = draw(14, 20)
    assert share_of_copies(training, training, training) == 0.0


def test_what_cannot_be_measured_is_refused() -> None:
    few, enough = np.eye(5), np.eye(6, 5)
    with pytest.raises(ValueError, match="generated: 5 images are too few; at least 6 are needed"):
        precision_recall(enough, few)
    with pytest.raises(ValueError, match="real: 5 images are too few; at least 6 are needed"):
        precision_recall(few, enough)
    with pytest.raises(ValueError, match="k: expected to be positive, got 0"):
        precision_recall(enough, enough, k=0)
    with pytest.raises(ValueError, match=r"real_radii: 6 expected, got \(5,\)"):
        precision_recall(enough, enough, real_radii=np.ones(5))
    with pytest.raises(ValueError, match="generated: 0 images are too few; at least 1 are needed"):
        nearest_images(np.empty((0, 5)), few)
    with pytest.raises(ValueError, match="held_out: 1 of 5 rows hold NaN or infinity, the first: 1"):
        share_of_copies(few, few, np.where(np.arange(5)[:, None] == 1, math.nan, few))
    with pytest.raises(ValueError, match=r"training \(5, 5\) and held_out \(3, 4\): features of different sizes"):
        copy_threshold(few, np.ones((3, 4)))
    with pytest.raises(ValueError, match="rows: expected to be positive, got 0"):
        neighbour_radii(enough, rows=0)
