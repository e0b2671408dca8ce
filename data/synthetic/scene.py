"""Where the synthetic persons walk: the view of each camera, and the things that stand in the way."""

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic.canvas import HEIGHT, WIDTH, Canvas
from data.synthetic.colours import CLOTHES, Colour, shaded

Extent = tuple[int, int, int]  # left, right and lower edge of a front, pixels

_LENGTH, _TALL = 480, 168  # pixels of a camera's panorama; boxes are cut from it
_FRONT = 120  # pixels of the panorama that one house front takes
_WALLS: tuple[Colour, ...] = ((168, 152, 134), (186, 186, 180), (142, 96, 80), (120, 132, 138), (206, 196, 170))
_GROUNDS: tuple[Colour, ...] = ((150, 148, 142), (104, 104, 108), (122, 134, 100), (178, 170, 154), (134, 124, 114))
_LEAVES: tuple[Colour, ...] = ((62, 96, 54), (80, 118, 60), (48, 78, 52))


def draw_panorama(rng: np.random.Generator) -> Image.Image:
    """Draws what one camera sees without persons: several house fronts, hedges and fences above one ground; RGB."""
    image = Image.new("RGB", (_LENGTH, _TALL))
    draw = ImageDraw.Draw(image)
    horizon = int(rng.integers(88, 120))
    for front in range(0, _LENGTH, _FRONT):
        wall = shaded(_WALLS[rng.integers(len(_WALLS))], rng.uniform(0.8, 1.1))
        draw.rectangle((front, 0, front + _FRONT, horizon), wall)
        paint = (_draw_bricks, _draw_windows, _draw_hedge, _draw_fence)[rng.integers(4)]
        paint(draw, rng, wall, (front, front + _FRONT, horizon))
    ground = _GROUNDS[rng.integers(len(_GROUNDS))]
    draw.rectangle((0, horizon, _LENGTH, _TALL), ground)
    _draw_ground(draw, rng, ground, horizon)
    for _ in range(rng.integers(4, 8)):
        _draw_thing(draw, rng, horizon)
    texture = rng.normal(0.0, 5.0, (_TALL, _LENGTH, 1)) + _smooth(rng, 12.0)
    return Image.fromarray(np.clip(np.asarray(image) + texture, 0, 255).astype(np.uint8))


def cut_background(panorama: Image.Image, place: float, rng: np.random.Generator) -> Image.Image:
    """Cuts the surroundings of one box.

    Args:
        panorama: From `draw_panorama`.
        place: Where along it, 0 to 1.
        rng: Jitters place and size.
    """
    zoom = rng.uniform(0.8, 1.1)
    width, height = WIDTH * zoom, HEIGHT * zoom
    left = np.clip(place + rng.normal(0.0, 0.06), 0.0, 1.0) * (_LENGTH - width)
    top = rng.uniform(0.0, _TALL - height)
    box = (float(left), float(top), float(left + width), float(top + height))
    return panorama.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)


def draw_occluder(layer: Image.Image, rng: np.random.Generator) -> None:
    """Draws a pole, a bush, a bench or a sign in front of what is on the layer; at most 40 % of the box is hidden."""
    canvas = Canvas(layer)
    match int(rng.integers(4)):
        case 0:
            x, half = rng.uniform(6, WIDTH - 6), rng.uniform(2.0, 4.5)
            colour = shaded((120, 122, 126), rng.uniform(0.5, 1.3))
            canvas.box((x, HEIGHT / 2), (half, HEIGHT), colour)
            canvas.box((x - half * 0.4, HEIGHT / 2), (half * 0.25, HEIGHT), shaded(colour, 1.25))
        case 1:
            colour, height = _LEAVES[rng.integers(len(_LEAVES))], rng.uniform(14, 38)
            for x in np.arange(-4.0, WIDTH + 5.0, 7.0):
                leaf = shaded(colour, rng.uniform(0.8, 1.25))
                canvas.ellipse((x, HEIGHT - height * rng.uniform(0.25, 0.6)), (9.0, height * 0.6), leaf)
        case 2:
            colour, top = shaded((134, 92, 58), rng.uniform(0.7, 1.2)), HEIGHT - rng.uniform(20, 40)
            for row in range(3):
                canvas.box((WIDTH / 2, top + 7 * row), (WIDTH, 2.6), shaded(colour, 1.0 - 0.08 * row))
            for x in (rng.uniform(4, 14), rng.uniform(50, 60)):
                canvas.box((x, HEIGHT), (2.0, HEIGHT - top), shaded(colour, 0.6))
        case _:
            colour = list(CLOTHES.values())[rng.integers(len(CLOTHES))]
            side = -1 if rng.random() < 0.5 else 1
            x = WIDTH / 2 + side * rng.uniform(24, 34)
            canvas.box((x, rng.uniform(30, 90)), (rng.uniform(8, 14), rng.uniform(14, 30)), colour, 2.0)


def _smooth(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """Stains: a smooth random field (_TALL, _LENGTH, 1)."""
    coarse = Image.fromarray(rng.normal(0.0, amplitude, (12, 34)).astype(np.float32))
    return np.asarray(coarse.resize((_LENGTH, _TALL), Image.Resampling.BICUBIC))[..., None]


def _draw_bricks(draw: ImageDraw.ImageDraw, rng: np.random.Generator, wall: Colour, extent: Extent) -> None:
    left, right, horizon = extent
    for row, y in enumerate(range(0, horizon, 9)):
        for x in range(left + (row % 2) * 8, right, 16):
            draw.rectangle((x, y, x + 14, y + 7), shaded(wall, rng.uniform(0.85, 1.08)))


def _draw_windows(draw: ImageDraw.ImageDraw, rng: np.random.Generator, wall: Colour, extent: Extent) -> None:
    left, right, horizon = extent
    for x in range(left + 8, right - 28, 40):
        glass = shaded((112, 136, 152), rng.uniform(0.6, 1.25))
        draw.rectangle((x, 14, x + 28, horizon - 26), shaded(wall, 0.6))
        draw.rectangle((x + 2, 16, x + 26, horizon - 28), glass)
        draw.line((x + 14, 16, x + 14, horizon - 28), shaded(wall, 0.8), 2)


def _draw_hedge(draw: ImageDraw.ImageDraw, rng: np.random.Generator, wall: Colour, extent: Extent) -> None:
    left, right, horizon = extent
    draw.rectangle((left, 40, right, horizon), _LEAVES[0])
    for _ in range(220):
        x, y, radius = rng.uniform(left, right), rng.uniform(34, horizon), rng.uniform(3, 8)
        leaf = shaded(_LEAVES[rng.integers(len(_LEAVES))], rng.uniform(0.75, 1.25))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), leaf)


def _draw_fence(draw: ImageDraw.ImageDraw, rng: np.random.Generator, wall: Colour, extent: Extent) -> None:
    left, right, horizon = extent
    for x in range(left, right, 10):
        draw.rectangle((x, 36, x + 7, horizon), shaded(wall, rng.uniform(0.72, 0.92)))
    for y in (48, horizon - 18):
        draw.rectangle((left, y, right, y + 4), shaded(wall, 0.6))


def _draw_ground(draw: ImageDraw.ImageDraw, rng: np.random.Generator, ground: Colour, horizon: int) -> None:
    """Rows of paving that grow towards the camera, and a kerb."""
    y, step = float(horizon), 4.0
    while y < _TALL:
        draw.line((0, y, _LENGTH, y), shaded(ground, rng.uniform(0.8, 0.95)), 1)
        shift = rng.uniform(0, 4 * step)
        for x in np.arange(shift, _LENGTH, 4 * step):
            draw.line((x, y, x, y + step), shaded(ground, 0.86), 1)
        y, step = y + step, step * 1.35
    draw.rectangle((0, horizon - 2, _LENGTH, horizon + 2), shaded(ground, 1.2))


def _draw_thing(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: int) -> None:
    """A door, a poster, a tree or a lamp post, in colours that clothes have too."""
    x, colour = float(rng.uniform(0, _LENGTH)), list(CLOTHES.values())[rng.integers(len(CLOTHES))]
    match int(rng.integers(4)):
        case 0:
            draw.rectangle((x, 20, x + 34, horizon), shaded(colour, 0.7))
            draw.rectangle((x + 3, 24, x + 31, horizon), colour)
        case 1:
            y = rng.uniform(10, 50)
            draw.rectangle((x, y, x + 30, y + 34), (232, 230, 224))
            draw.rectangle((x + 3, y + 3, x + 27, y + 22), colour)
        case 2:
            draw.rectangle((x, 30, x + 9, horizon + 6), (92, 70, 54))
            leaf = _LEAVES[rng.integers(len(_LEAVES))]
            for dx, dy, radius in ((-14, 20, 18), (10, 14, 20), (22, 30, 15)):
                draw.ellipse(
                    (x + dx - radius, dy - radius, x + dx + radius, dy + radius), shaded(leaf, rng.uniform(0.8, 1.2))
                )
        case _:
            draw.rectangle((x, 0, x + 4, horizon + 10), shaded(colour, 0.5))
