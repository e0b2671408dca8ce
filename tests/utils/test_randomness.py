import itertools

from utils.randomness import (
    ADVERSARIES,
    AUGMENTATION,
    BRANCHES,
    GENERATED,
    GENERATED_AUGMENTATION,
    GENERATED_PIXELS,
    INITIAL_WEIGHTS,
    MODEL,
    PIXELS,
    REAL_PICTURES,
    SAMPLES,
    seed_for,
)

OF_GENERATOR = (ADVERSARIES, REAL_PICTURES, SAMPLES, GENERATED, GENERATED_AUGMENTATION, GENERATED_PIXELS)
PURPOSES = (INITIAL_WEIGHTS, AUGMENTATION, PIXELS, MODEL, BRANCHES, *OF_GENERATOR)


def test_the_same_place_has_the_same_seed_for_ever() -> None:
    # Pinned: with other seeds a run that goes on after an update would not be the run it was.
    assert seed_for(AUGMENTATION, 7, 1000) == 2161535390019305417
    assert seed_for(AUGMENTATION, 7, 1000) == seed_for(AUGMENTATION, 7, 1000)


def test_every_purpose_run_step_and_rank_has_a_seed_of_its_own() -> None:
    places = list(itertools.product(PURPOSES, range(10), range(20), range(4)))
    seeds = {seed_for(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_steps_differ_in_half_of_all_bits() -> None:
    flips = [(seed_for(MODEL, 0, step) ^ seed_for(MODEL, 0, step + 1)).bit_count() for step in range(2000)]
    # 63 fair coins each time: mean 31.5, and of 2000 such means one spread is sqrt(63 / 4 / 2000) = 0.09.
    assert abs(sum(flips) / len(flips) - 31.5) < 0.45
