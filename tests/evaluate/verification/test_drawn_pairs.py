"""Pairs drawn from labelled images: balanced, without repeats, folds without a person in common."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.samples import Sample
from evaluate.core.verification.drawn_pairs import draw_pairs
from utils.errors import DataError, ParamsError


def images(numbers, cameras=1, first_pid=1):
    """Samples of persons with so many images each; the cameras take turns."""
    return [
        Sample(Path(f"{pid:04d}_{place:04d}.png"), pid, place % cameras)
        for pid, number in enumerate(numbers, start=first_pid)
        for place in range(number)
    ]


def drawn(pairs):
    """(sample, sample, is genuine, fold) of each pair."""
    columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.is_genuine.tolist(), pairs.folds.tolist())
    return [
        (pairs.samples[one], pairs.samples[other], kind, fold) for one, other, kind, fold in zip(*columns, strict=True)
    ]


@given(
    numbers=st.lists(st.integers(1, 6), min_size=8, max_size=20),
    cameras=st.integers(1, 3),
    num_folds=st.integers(1, 4),
    num_pairs=st.integers(4, 40).map(lambda half: 2 * half),
    seed=st.integers(0, 5),
)
def test_every_rule_holds(numbers, cameras, num_folds, num_pairs, seed):
    numbers = [2, 2, 3, 2, *numbers]
    samples = images(numbers, cameras)
    pairs = draw_pairs(samples, num_pairs, num_folds, seed, "here")
    found = drawn(pairs)
    assert len(found) <= num_pairs
    assert len({frozenset((one.path, other.path)) for one, other, _, _ in found}) == len(found)
    assert {sample.path for pair in found for sample in pair[:2]} == {sample.path for sample in pairs.samples}
    persons = {fold: {side.pid for pair in found if pair[3] == fold for side in pair[:2]} for fold in range(num_folds)}
    assert all(not one & other for one, other in combinations(persons.values(), 2))
    cameras_of = {pid: len({sample.camid for sample in samples if sample.pid == pid}) for pid in range(99)}
    for one, other, is_genuine, _ in found:
        assert (one.pid == other.pid) == is_genuine
        assert one.path != other.path
        if is_genuine and cameras_of[one.pid] > 1:
            assert one.camid != other.camid
    for fold in range(num_folds):
        kinds = Counter(kind for _, _, kind, where in found if where == fold)
        assert kinds[True] == kinds[False] >= 1


def test_gives_as_many_as_asked_for_where_there_are_enough(caplog):
    pairs = draw_pairs(images([8] * 40), num_pairs=214, num_folds=10, seed=0, where="here")
    assert caplog.text == ""
    assert len(pairs.first) == 214
    assert pairs.is_genuine.sum() == 107
    assert set(pairs.folds.bincount().tolist()) == {20, 22}


def test_gives_all_there_are_and_says_so_where_there_are_too_few(caplog):
    # One fold: persons of 3, 2 and 1 images have 3 + 1 + 0 genuine pairs and 6 + 3 + 2 impostors.
    pairs = draw_pairs(images([3, 2, 1]), num_pairs=100, num_folds=1, seed=0, where="here")
    assert [record.message for record in caplog.records] == ["here: only 8 pairs can be drawn, not 100"]
    assert pairs.is_genuine.tolist() == [True] * 4 + [False] * 4
    # Two persons of two images, and all of the few impostors: the genuine pairs are cut to their number.
    pairs = draw_pairs(images([9, 1]), num_pairs=100, num_folds=1, seed=0, where="here")
    assert pairs.is_genuine.tolist() == [True] * 9 + [False] * 9


def test_persons_take_turns():
    pairs = draw_pairs(images([50, 3, 3, 3]), num_pairs=24, num_folds=1, seed=0, where="here")
    genuine = Counter(one.pid for one, _, is_genuine, _ in drawn(pairs) if is_genuine)
    assert genuine == {1: 3, 2: 3, 3: 3, 4: 3}


def test_impostors_are_drawn_evenly_from_all_there_are():
    samples = images([1, 2, 3, 2])
    possible = {(one.path, other.path) for one, other in combinations(samples, 2) if one.pid != other.pid}
    seen = Counter(
        (one.path, other.path)
        for seed in range(1500)
        for one, other, is_genuine, _ in drawn(draw_pairs(samples, 4, 1, seed, "here"))
        if not is_genuine
    )
    assert set(seen) == possible
    counts = np.array(list(seen.values()))
    expected = 3000 / len(possible)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_the_seed_decides():
    samples = images([5] * 30, cameras=2)
    one, same, other = (drawn(draw_pairs(samples, 60, 3, seed, "here")) for seed in (1, 1, 2))
    shuffled = drawn(draw_pairs(samples[::-1], 60, 3, 1, "here"))
    assert one == same == shuffled != other


def test_junk_distractors_and_repeats_are_left_out():
    samples = images([4] * 4)
    others = images([9], first_pid=0) + images([9], first_pid=-1)
    pairs = draw_pairs(samples + others + samples, 60, 1, 0, "here")
    assert pairs.is_genuine.sum() == 4 * 6
    assert {sample.pid for sample in pairs.samples} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("numbers", "num_folds", "message"),
    [
        ([], 1, "1 folds .* at least 2 persons, 1 of them in two images; got 0, 0 of them in two images; add"),
        ([5, 5, 5], 2, "2 folds .* at least 4 persons, 2 of them in two images; got 3, 3 of them"),
        ([5, 1, 1, 1], 2, "2 folds .* got 4, 1 of them"),
    ],
)
def test_too_few_persons_for_the_folds_are_an_error(numbers, num_folds, message):
    with pytest.raises(DataError, match=f"^here: for pairs in {message}"):
        draw_pairs(images(numbers), 100, num_folds, 0, "here")


def test_too_few_pairs_for_the_folds_are_an_error():
    with pytest.raises(ParamsError, match=r"evaluation_params\.num_pairs: 18 pairs cannot give .* each of 10 folds"):
        draw_pairs(images([5] * 40), 18, 10, 0, "here")
    assert draw_pairs(images([5] * 40), 20, 10, 0, "here").folds.bincount().tolist() == [2] * 10
