import dataclasses
import itertools

import numpy as np
import pytest

from data.synthetic.colours import CLOTHES, HAIRS, distance, pick_colour
from data.synthetic.identity import sample_people, sample_person, sample_twin

ALIKE = [{"plain", "logo"}, {"checks", "dots"}, {"shoulder bag", "tote"}, {"cap", "beanie"}, {"shorts", "skirt"}]


def differing_fields(first, second):
    return [
        field.name for field in dataclasses.fields(first) if getattr(first, field.name) != getattr(second, field.name)
    ]


def test_a_twin_differs_in_exactly_one_clearly_visible_part():
    rng = np.random.default_rng(0)
    changed = set()
    for _ in range(500):
        person = sample_person(rng)
        twin = sample_twin(rng, person)
        (field,) = differing_fields(person, twin)
        changed.add(field)
        # A dress hides the lower clothes.
        assert (person.top, field) != ("dress", "bottom")
        values = getattr(person, field), getattr(twin, field)
        if field.endswith("colour"):
            assert distance(CLOTHES[values[0]], CLOTHES[values[1]]) > 90
        # These look alike.
        assert set(values) not in ALIKE
    assert changed == {"top_colour", "bottom_colour", "top", "pattern", "bottom", "bag", "hat"}


def test_all_people_are_different_and_most_have_a_twin():
    people = sample_people(np.random.default_rng(3), 200)
    assert len(set(people)) == 200
    with_twin = {a for a, b in itertools.permutations(people, 2) if len(differing_fields(a, b)) == 1}
    assert len(with_twin) > 100


@pytest.mark.parametrize("avoid", list(itertools.combinations([*CLOTHES.values(), *HAIRS], 2)))
def test_there_is_a_colour_that_differs_from_any_two(avoid):
    picked = pick_colour(np.random.default_rng(0), *avoid)
    assert min(distance(CLOTHES[picked], other) for other in avoid) > 90
