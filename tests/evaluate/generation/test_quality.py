"""The measures of a generator as a whole: each is that of its own function, and they say what they should."""

import numpy as np
import pytest

from evaluate.core.generation.distances import diversity, frechet_distance, kernel_distance, kernel_mean, statistics_of
from evaluate.core.generation.neighbours import copy_threshold, neighbour_radii, precision_recall, share_of_copies
from evaluate.core.generation.quality import RealImages, measure


def draw(seed: int, num: int = 200, scale: float = 1.0) -> np.ndarray:
    return (1.0 + scale * np.random.default_rng(seed).normal(size=(num, 6))).astype(np.float32)


def test_every_measure_is_that_of_its_function() -> None:
    training, held_out, generated = draw(0), draw(1, 120), draw(2, 90, scale=1.3)
    measures = measure(RealImages(training, held_out), generated)
    precision, recall = precision_recall(training, neighbour_radii(training), generated)
    assert 0.1 < min(precision, recall) < max(precision, recall) < 1.0
    assert measures == {
        "fid": frechet_distance(statistics_of(training), statistics_of(generated)),
        "kid": kernel_distance(training, kernel_mean(training), generated),
        "precision": precision,
        "recall": recall,
        "diversity": diversity(generated) / diversity(training),
        "copies": share_of_copies(generated, training, copy_threshold(training, held_out)),
    }
    assert all(type(value) is float for value in measures.values())


def test_without_held_out_images_nothing_is_said_of_copies() -> None:
    real = RealImages(draw(0))
    assert [*measure(real, draw(1))] == ["fid", "kid", "precision", "recall", "diversity"]


def test_measuring_changes_nothing() -> None:
    real, generated = RealImages(draw(0), draw(1)), draw(2)
    first = measure(real, generated)
    measure(real, draw(3))
    assert measure(real, generated) == first


def test_the_measures_tell_good_generators_from_bad_ones() -> None:
    training = draw(0)
    real = RealImages(training, draw(1))
    good, noisy, narrow, copying = draw(2), draw(3, scale=4.0), draw(4, scale=0.1), training[::2]
    found = {
        name: measure(real, images)
        for name, images in {"good": good, "noisy": noisy, "narrow": narrow, "copying": copying}.items()
    }
    for bad in ("noisy", "narrow"):
        assert found[bad]["fid"] > 3 * found["good"]["fid"]
        assert found[bad]["kid"] > found["good"]["kid"] + 0.1
    assert found["noisy"]["precision"] < 0.5 < found["good"]["precision"]
    assert found["narrow"]["recall"] < 0.1 < 0.5 < found["good"]["recall"]
    assert found["narrow"]["diversity"] < 0.1 < 0.9 < found["good"]["diversity"]
    assert found["copying"]["copies"] == 1.0
    assert found["good"]["copies"] < 0.1


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="training: 5 images are too few; at least 6 are needed"):
        RealImages(np.eye(5))
    with pytest.raises(ValueError, match="training: the features of all 8 images have the same direction"):
        RealImages(np.full((8, 3), 0.1))
    with pytest.raises(ValueError, match=r"held_out: features of shape \(N, 6\) expected, got \(9, 5\)"):
        RealImages(draw(0), np.ones((9, 5)))
    real = RealImages(draw(0))
    for wrong, message in (
        (np.eye(5, 6), "5 images are too few; at least 6 are needed"),
        (np.ones((9, 5)), r"features of shape \(N, 6\) expected"),
        (np.ones(6), r"features of shape \(N, 6\) expected"),
        (np.where(np.arange(54).reshape(9, 6) == 7, np.nan, 1.0), "1 of 9 rows hold NaN or infinity, the first: 1"),
    ):
        with pytest.raises(ValueError, match=f"generated: {message}"):
            measure(real, wrong)
