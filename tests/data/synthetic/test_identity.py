import dataclasses
import itertools

import numpy as np
import pytest

from data.synthetic.colours import CLOTHES, HAIRS, distance, pick_colour
from data.synthetic.identity import sample_people, sample_person, sample_twin


def differing_fields(first, second):
    return [
        field.name for field in dataclasses.fields(first) if getattr(first, field.name) != getattr(second, field.name)
    ]


def test_a_twin_differs_in_exactly_one_part():
    rng = np.random.default_rng(0)
    changed = set()
    for _ in range(300):
        person = sample_person(rng)
        fields = differing_fields(person, sample_twin(rng, person))
        assert len(fields) == 1
        changed.update(fields)
    assert changed == {"top_colour", "bottom_colour", "top", "pattern", "bottom", "bag", "hat"}


def test_a_twins_other_colour_is_clearly_different():
    rng = np.random.default_rng(1)
    for _ in range(300):
        person = sample_person(rng)
        twin = sample_twin(rng, person)
        for field in differing_fields(person, twin):
            if field.endswith("colour"):
                assert distance(CLOTHES[getattr(person, field)], CLOTHES[getattr(twin, field)]) > 90


def test_a_dress_hides_the_lower_clothes_so_no_twin_differs_there():
    rng = np.random.default_rng(2)
    dressed = [person for person in (sample_person(rng) for _ in range(300)) if person.top == "dress"]
    assert dressed
    assert all(differing_fields(person, sample_twin(rng, person)) != ["bottom"] for person in dressed)


def test_twins_do_not_differ_in_what_looks_alike():
    rng = np.random.default_rng(5)
    for _ in range(500):
        person = sample_person(rng)
        twin = sample_twin(rng, person)
        for first, second in (("plain", "logo"), ("checks", "dots")):
            assert {person.pattern, twin.pattern} != {first, second}
        assert {person.bag, twin.bag} != {"shoulder bag", "tote"}
        assert {person.hat, twin.hat} != {"cap", "beanie"}
        assert {person.bottom, twin.bottom} != {"shorts", "skirt"}


def test_all_people_are_different_and_most_have_a_twin():
    people = sample_people(np.random.default_rng(3), 200)
    assert len(set(people)) == 200
    with_twin = {a for a, b in itertools.permutations(people, 2) if len(differing_fields(a, b)) == 1}
    assert len(with_twin) > 100


@pytest.mark.parametrize("avoid", list(itertools.combinations([*CLOTHES.values(), *HAIRS], 2)))
def test_there_is_a_colour_that_differs_from_any_two(avoid):
    picked = pick_colour(np.random.default_rng(0), *avoid)
    assert min(distance(CLOTHES[picked], other) for other in avoid) > 90
