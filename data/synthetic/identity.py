"""Who the synthetic persons are: everything about a person that no camera, pose or light changes."""

from dataclasses import dataclass, replace

import numpy as np

from data.synthetic.colours import CLOTHES, HAIRS, SKINS, Colour, clearly_different, pick_colour

HAIR_STYLES = ("short", "bald", "bob", "long", "bun", "ponytail", "afro")
HATS = ("none", "cap", "beanie", "sunhat")
TOPS = ("t-shirt", "long sleeve", "coat", "dress")
PATTERNS = ("plain", "horizontal stripes", "vertical stripes", "checks", "dots", "logo", "two-tone")
BOTTOMS = ("trousers", "shorts", "skirt")
BOTTOM_PATTERNS = ("plain", "band")
BAGS = ("none", "backpack", "shoulder bag", "tote")

_HAT_SHARES = (0.7, 0.12, 0.1, 0.08)
_TOP_SHARES = (0.3, 0.35, 0.2, 0.15)
_PATTERN_SHARES = (0.34, 0.12, 0.1, 0.1, 0.1, 0.12, 0.12)
_BOTTOM_SHARES = (0.6, 0.2, 0.2)
_BAG_SHARES = (0.4, 0.24, 0.2, 0.16)
_TWIN_FIELDS = ("top_colour", "bottom_colour", "top", "pattern", "bottom", "bag", "hat")
_TWIN_SHARES = (0.29, 0.29, 0.08, 0.12, 0.1, 0.07, 0.05)
_LOOKALIKES = (("plain", "logo"), ("checks", "dots"), ("cap", "beanie"), ("shoulder bag", "tote"), ("shorts", "skirt"))
_FAMILY_SIZES, _FAMILY_SHARES = (1, 2, 3, 4), (0.5, 0.34, 0.12, 0.04)


@dataclass(frozen=True)
class Person:
    """One identity. Lengths are fractions of the body height; colours of clothes are names of `colours.CLOTHES`.

    What is not worn keeps its colour (`bag_colour` with `bag` "none"), so that twins differ in one field only.
    """

    height: float
    build: float
    legs: float
    skin: Colour
    hair: str
    hair_colour: Colour
    hat: str
    hat_colour: str
    top: str
    top_colour: str
    pattern: str
    pattern_colour: str
    bottom: str
    bottom_colour: str
    bottom_pattern: str
    bag: str
    bag_colour: str
    shoes: str


def sample_person(rng: np.random.Generator) -> Person:
    """Draws a person independently of all others."""
    top_colour = pick_colour(rng)
    pattern_colour = pick_colour(rng, CLOTHES[top_colour])
    bottom_colour = pick_colour(rng, CLOTHES[top_colour])
    hair_colour = HAIRS[rng.integers(len(HAIRS))]
    return Person(
        height=float(rng.uniform(0.92, 1.04)),
        build=float(rng.uniform(0.84, 1.24)),
        legs=float(rng.uniform(0.46, 0.53)),
        skin=SKINS[rng.integers(len(SKINS))],
        hair=_pick(rng, HAIR_STYLES),
        hair_colour=hair_colour,
        hat=_pick(rng, HATS, _HAT_SHARES),
        hat_colour=pick_colour(rng, hair_colour),
        top=_pick(rng, TOPS, _TOP_SHARES),
        top_colour=top_colour,
        pattern=_pick(rng, PATTERNS, _PATTERN_SHARES),
        pattern_colour=pattern_colour,
        bottom=_pick(rng, BOTTOMS, _BOTTOM_SHARES),
        bottom_colour=bottom_colour,
        bottom_pattern=_pick(rng, BOTTOM_PATTERNS, (0.75, 0.25)),
        bag=_pick(rng, BAGS, _BAG_SHARES),
        bag_colour=pick_colour(rng, CLOTHES[top_colour], CLOTHES[bottom_colour]),
        shoes=pick_colour(rng),
    )


def sample_twin(rng: np.random.Generator, person: Person) -> Person:
    """Draws a person who differs from the given one in exactly one clearly visible field."""
    field = _pick(rng, _TWIN_FIELDS, _TWIN_SHARES)
    top_colour, bottom_colour = CLOTHES[person.top_colour], CLOTHES[person.bottom_colour]
    if field == "bottom" and (person.top == "dress" or not clearly_different(bottom_colour, person.skin)):
        field = "bottom_colour"  # a dress hides what is below; brown trousers look like brown legs
    if field == "top_colour":
        return replace(person, top_colour=pick_colour(rng, top_colour, CLOTHES[person.pattern_colour]))
    if field == "bottom_colour":
        return replace(person, bottom_colour=pick_colour(rng, top_colour, bottom_colour))
    names = {"top": TOPS, "pattern": PATTERNS, "bottom": BOTTOMS, "bag": BAGS, "hat": HATS}[field]
    return replace(person, **{field: _pick_other(rng, names, getattr(person, field))})


def sample_people(rng: np.random.Generator, count: int) -> list[Person]:
    """Draws families of one to four: a person and up to three twins of theirs, `count` different persons in all."""
    people: list[Person] = []
    while len(people) < count:
        base = sample_person(rng)
        family = [base]
        size = _FAMILY_SIZES[rng.choice(len(_FAMILY_SIZES), p=_FAMILY_SHARES)]
        while len(family) < size:
            twin = sample_twin(rng, base)
            if twin not in family:
                family.append(twin)
        people += family
    return people[:count]


def _pick(rng: np.random.Generator, names: tuple[str, ...], shares: tuple[float, ...] | None = None) -> str:
    return names[rng.choice(len(names), p=shares)]


def _pick_other(rng: np.random.Generator, names: tuple[str, ...], present: str) -> str:
    """Draws one of the names that can be told from the present one from most sides, even in a small image."""
    alike = next((group for group in _LOOKALIKES if present in group), (present,))
    return _pick(rng, tuple(name for name in names if name not in alike))
