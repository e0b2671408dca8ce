"""The few, muted colours that all synthetic persons share."""

import numpy as np

Colour = tuple[int, int, int]

CLOTHES: dict[str, Colour] = {
    "black": (40, 40, 45),
    "grey": (132, 134, 138),
    "white": (228, 226, 220),
    "beige": (198, 176, 140),
    "brown": (112, 76, 52),
    "navy": (44, 58, 104),
    "sky": (128, 172, 210),
    "red": (178, 50, 50),
    "pink": (218, 150, 164),
    "mustard": (214, 172, 64),
    "green": (66, 124, 78),
    "purple": (112, 78, 142),
}
SKINS: tuple[Colour, ...] = ((240, 206, 178), (224, 178, 142), (196, 144, 106), (152, 104, 74), (104, 70, 52))
HAIRS: tuple[Colour, ...] = ((34, 28, 26), (84, 54, 36), (142, 92, 50), (208, 172, 104), (160, 68, 38), (176, 174, 172))

_CLEARLY_DIFFERENT = 95.0  # RGB distance that survives the cameras' colour casts


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter (factor > 1)."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def distance(first: Colour, second: Colour) -> float:
    """Euclidean distance in RGB, 0 to 442."""
    return float(np.linalg.norm(np.subtract(first, second)))


def clearly_different(first: Colour, second: Colour) -> bool:
    """Whether the two can be told apart under every camera."""
    return distance(first, second) > _CLEARLY_DIFFERENT


def pick_colour(rng: np.random.Generator, *avoid: Colour) -> str:
    """Draws the name of a colour of `CLOTHES` that differs clearly from each of up to two others."""
    allowed = [name for name, colour in CLOTHES.items() if all(clearly_different(colour, other) for other in avoid)]
    return allowed[rng.integers(len(allowed))]
