"""Turns a planned shot into an image: pose, light, box, surroundings, camera."""

import io
import math
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic.camera import Camera, develop, jpeg_quality, make_cameras
from data.synthetic.canvas import FINENESS, HEIGHT, WIDTH, Canvas
from data.synthetic.figure import draw_person
from data.synthetic.identity import Person, sample_person
from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import Shot, plan_shots
from data.synthetic.pose import Point, Pose
from data.synthetic.scene import cut_background, draw_occluder

_VISIT, _SHOT = 6, 5  # streams of random numbers, see plan.py
_OCCLUDED, _CROWDED, _BAD_BOX = 0.16, 0.12, 0.08  # shares of the shots


def render_share(options: SyntheticOptions, folder: Path, share: int, shares: int) -> Generator[None]:
    """Renders the images share, share + shares, ... into existing sub-folders; yields after each of them."""
    cameras = make_cameras(options.seed, options.cameras)
    for shot in plan_shots(options)[share::shares]:
        (folder / shot.path).write_bytes(render_jpeg(shot, cameras[shot.camera], options.seed))
        yield


def render_jpeg(shot: Shot, camera: Camera, seed: int) -> bytes:
    """Renders a shot; the bytes depend on these arguments alone."""
    rng = np.random.default_rng((seed, _SHOT, shot.key))
    image = develop(_compose(shot, camera, seed, rng), camera, rng)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=jpeg_quality(camera, rng))
    return buffer.getvalue()


def _compose(shot: Shot, camera: Camera, seed: int, rng: np.random.Generator) -> Image.Image:
    """The scene as it is, RGB (HEIGHT, WIDTH), before the camera's optics and electronics."""
    visit = np.random.default_rng((seed, _VISIT, shot.visit))
    yaw = camera.yaw + visit.normal(0.0, 0.5) + (math.pi if visit.random() < 0.3 else 0.0)
    background = cut_background(camera.panorama, visit.random(), rng)
    layer = Canvas.blank()
    if rng.random() < _CROWDED:
        _draw_passer_by(layer, rng)
    if shot.person is not None:
        axis, scale = _partial_box(rng) if shot.partial else _box(rng, shot.person)
        feet = (axis[0], axis[1] + 0.985 * scale)
        draw_shadow(background, feet, scale)
        draw_person(Canvas(layer, axis, scale), shot.person, _pose(rng, yaw))
    if rng.random() < _OCCLUDED:
        draw_occluder(layer, rng)
    figure = layer.reduce(FINENESS)
    background.paste(_lit(figure, rng), mask=figure.getchannel("A"))
    return background


def _pose(rng: np.random.Generator, yaw: float) -> Pose:
    return Pose(yaw + float(rng.normal(0.0, 0.25)), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.15, 0.5)))


def _box(rng: np.random.Generator, person: Person) -> tuple[Point, float]:
    """Where a detector's box has the body's crown and how tall the body is, both in pixels."""
    scale = HEIGHT * 0.9 * person.height * rng.uniform(0.94, 1.05)
    x, y = WIDTH / 2 + rng.normal(0.0, 2.5), (HEIGHT - scale) / 2 + rng.normal(0.0, 2.5)
    if rng.random() < _BAD_BOX:
        scale *= rng.uniform(1.08, 1.25)
        y = -rng.uniform(0.0, 0.08) * scale if rng.random() < 0.4 else rng.uniform(0.0, 6.0)
        x += rng.normal(0.0, 3.0)
    return (float(x), float(y)), float(scale)


def _partial_box(rng: np.random.Generator) -> tuple[Point, float]:
    """A box that holds a fraction of the body."""
    scale = HEIGHT * rng.uniform(1.5, 2.4)
    return (float(WIDTH * rng.uniform(0.0, 1.0)), float(-scale * rng.uniform(0.0, 0.6))), float(scale)


def _draw_passer_by(layer: Image.Image, rng: np.random.Generator) -> None:
    """Draws somebody else at the edge of the box, behind the person."""
    side = -1 if rng.random() < 0.5 else 1
    axis = (WIDTH / 2 + side * rng.uniform(22.0, 34.0), rng.uniform(4.0, 24.0))
    other = Canvas(layer, axis, HEIGHT * rng.uniform(0.7, 0.9))
    draw_person(other, sample_person(rng), _pose(rng, float(rng.uniform(0, 2 * math.pi))))


def draw_shadow(background: Image.Image, feet: Point, scale: float) -> None:
    """Darkens the ground around the feet of a body of `scale` pixels."""
    x, y = feet
    half = (0.17 * scale, 0.025 * scale)
    spot = Image.new("L", background.size)
    ImageDraw.Draw(spot).ellipse((x - half[0], y - half[1], x + half[0], y + half[1]), fill=90)
    background.paste((30, 30, 34), mask=spot)


def _lit(figure: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side: brightness changes across and down the RGBA figure."""
    across, down = rng.uniform(-0.28, 0.28), rng.uniform(-0.16, 0.04)
    field = 1.0 + across * np.linspace(-1, 1, WIDTH)[None, :] + down * np.linspace(-0.5, 0.5, HEIGHT)[:, None]
    pixels = np.asarray(figure)[..., :3] * field[..., None].astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
