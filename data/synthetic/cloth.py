"""The patterns of clothes."""

from collections.abc import Callable

from PIL import Image, ImageDraw

from data.synthetic.colours import Colour

_BAND, _STRIPE, _CHECK, _DOT = 0.034, 0.03, 0.042, 0.052  # body heights


def cloth(pattern: str, ground: Colour, print_colour: Colour) -> Callable[[tuple[int, int], float], Image.Image]:
    """A painter of cloth: (width, height) in pixels and the pixels per body height -> RGB image of that size.

    "plain" and "logo" give plain cloth; the figure puts the logo on the chest.
    """

    def paint(size: tuple[int, int], unit: float) -> Image.Image:
        image = Image.new("RGB", size, ground)
        draw = ImageDraw.Draw(image)
        width, height = size
        match pattern:
            case "horizontal stripes":
                for y in _steps(height, 2 * _BAND * unit, _BAND * unit):
                    draw.rectangle((0, y, width, y + _BAND * unit), print_colour)
            case "vertical stripes":
                for x in _steps(width, 2 * _STRIPE * unit, width / 2 - _STRIPE * unit / 2):
                    draw.rectangle((x, 0, x + _STRIPE * unit, height), print_colour)
            case "checks":
                _checks(draw, size, _CHECK * unit, print_colour)
            case "dots":
                _dots(draw, size, _DOT * unit, print_colour)
            case "two-tone":
                draw.rectangle((0, 0.55 * height, width, height), print_colour)
        return image

    return paint


def _steps(length: int, step: float, through: float) -> list[float]:
    """The places on 0..length at multiples of the step, counted from one of them."""
    first = through % step - step
    return [first + index * step for index in range(int((length - first) / step) + 1)]


def _checks(draw: ImageDraw.ImageDraw, size: tuple[int, int], side: float, colour: Colour) -> None:
    for row, y in enumerate(_steps(size[1], side, 0.0)):
        for x in _steps(size[0], 2 * side, size[0] / 2 + side * (row % 2)):
            draw.rectangle((x, y, x + side, y + side), colour)


def _dots(draw: ImageDraw.ImageDraw, size: tuple[int, int], step: float, colour: Colour) -> None:
    radius = 0.32 * step
    for row, y in enumerate(_steps(size[1], step, 0.6 * step)):
        for x in _steps(size[0], step, size[0] / 2 + step / 2 * (row % 2)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
