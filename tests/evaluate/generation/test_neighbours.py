"""Neighbours of images against plain loops, and what is known of copies and of sets far apart."""

import math

import numpy as np
import pytest

from evaluate.core.generation import neighbours
from evaluate.core.generation.neighbours import (
    copy_threshold,
    nearest_images,
    neighbour_radii,
    precision_recall,
    share_of_copies,
)

BLOCKS = pytest.mark.parametrize("rows", [1, 4, 512], indirect=True)


@pytest.fixture
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the matrix of distances in memory at once."""
    monkeypatch.setattr(neighbours, "ROWS", request.param)


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


def found(real: np.ndarray, generated: np.ndarray, k: int = 5) -> tuple[float, float]:
    return precision_recall(real, neighbour_radii(real, k), generated, k)


@BLOCKS
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_loops(k: int, rows: None) -> None:
    real, generated = draw(0, 30), draw(1, 21) + np.array([2.0, 0.0, 0.0])
    expected = share_within(generated, real, k), share_within(real, generated, k)
    assert 0.1 < min(expected) < max(expected) < 1.0
    assert found(real, generated, k) == expected
    assert neighbour_radii(real, k) == pytest.approx(radii_by_loops(real, k))


def test_precision_and_recall_trade_places_with_the_sets_and_ignore_the_order() -> None:
    real, generated = draw(2, 40), 2.0 * draw(3, 30)
    precision, recall = found(real, generated)
    assert precision < recall
    assert found(generated, real) == (recall, precision)
    rng = np.random.default_rng(0)
    assert found(rng.permutation(real), rng.permutation(generated)) == (precision, recall)


def test_real_images_are_like_themselves_and_far_ones_are_not() -> None:
    real = draw(4, 30)
    assert found(real, real) == (1.0, 1.0)
    assert found(real, real + 100) == (0.0, 0.0)


@BLOCKS
def test_a_generator_of_one_real_image_is_precise_and_makes_no_other(rows: None) -> None:
    real = 1e3 + np.random.default_rng(5).normal(size=(25, 64))
    assert found(real, np.repeat(real[3:4], 8, axis=0)) == (1.0, 1 / 25)


@BLOCKS
def test_the_nearest_training_image_is_that_of_a_search(rows: None) -> None:
    generated, training = draw(6, 13), draw(7, 17)
    generated[4] = training[9]
    found = nearest_images(generated, training)
    for row, image in enumerate(generated):
        every = [distance(image, other) for other in training]
        assert found.place[row] == every.index(min(every))
        assert found.distance[row] == pytest.approx(min(every), abs=1e-9)
    assert found.distance[4] == 0.0


@BLOCKS
def test_a_copy_is_at_distance_zero_however_long_the_features(rows: None) -> None:
    training = 1e3 + np.random.default_rng(5).normal(size=(25, 64))
    found = nearest_images(training[::-1], training)
    assert found.place.tolist() == [*range(24, -1, -1)]
    assert not found.distance.any()


def test_of_equal_training_images_the_first_is_the_nearest() -> None:
    assert nearest_images(np.ones((2, 3)), np.ones((4, 3))).place.tolist() == [0, 0]


@BLOCKS
def test_the_share_of_copies_is_that_of_loops(rows: None) -> None:
    training, held_out = draw(8, 50), draw(9, 40) + 1.0
    generated = np.concatenate([draw(10, 20), training[:5] + 1e-3])
    nearest = sorted(min(distance(image, other) for other in training) for image in held_out)
    threshold = nearest[0] + 0.01 * 39 * (nearest[1] - nearest[0])
    copies = [min(distance(image, other) for other in training) < threshold for image in generated]
    assert 5 <= sum(copies) < 25
    assert copy_threshold(training, held_out) == pytest.approx(threshold)
    assert share_of_copies(generated, training, threshold) == sum(copies) / 25


def test_repeated_training_images_are_all_copies_and_new_images_hardly_ever() -> None:
    training, held_out, new = (draw(seed, 1000, dim=8) for seed in (11, 12, 13))
    threshold = copy_threshold(training, held_out)
    assert share_of_copies(training[:300], training, threshold) == 1.0
    assert 0.0 < share_of_copies(new, training, threshold) < 0.03
    assert share_of_copies(held_out, training, threshold) == 0.01


def test_held_out_images_that_repeat_training_images_leave_nothing_to_tell_copies_by() -> None:
    training = draw(14, 20)
    assert share_of_copies(training, training, copy_threshold(training, training)) == 0.0
