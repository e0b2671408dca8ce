import numpy as np
import pytest

from benchmarks.synthetic_difficulty import BASELINES, measure, score
from data.synthetic import SyntheticOptions, make_synthetic


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    options = SyntheticOptions(train_identities=2)  # the default test persons; the training persons are not needed
    return measure(make_synthetic(tmp_path_factory.mktemp("difficulty") / "set", options))


@pytest.mark.parametrize("name", BASELINES)
def test_nearest_neighbours_without_learning_stay_far_from_solving_the_set(baselines, name):
    rank1, mean_average_precision = baselines[name]
    assert rank1 < 0.4
    assert mean_average_precision < 0.25


def test_the_set_is_not_hopeless_either(baselines):
    chance = 0.02
    assert max(rank1 for rank1, _ in baselines.values()) > 4 * chance


def test_score_of_a_small_case_done_by_hand():
    similarity = np.array([[0.9, 0.8, 0.1], [0.2, -np.inf, 0.3]])
    matches = np.array([[False, True, True], [False, False, True]])
    rank1, mean_average_precision = score(similarity, matches)
    assert rank1 == 0.5
    assert mean_average_precision == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
