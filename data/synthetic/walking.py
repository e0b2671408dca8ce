"""A video of synthetic pedestrians who walk through one another, out of the picture and back; the truth comes with it.

for frame in walking_video(np.random.default_rng(0)):
    frame.pixels, frame.sightings
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic.camera import Camera, expose, make_cameras
from data.synthetic.canvas import FINENESS, Canvas
from data.synthetic.colours import CLOTHES, shaded
from data.synthetic.figure import draw_person
from data.synthetic.identity import Person, sample_people
from data.synthetic.paths import Walk, body_height, plan_walk
from data.synthetic.pose import Pose
from data.synthetic.render import draw_shadow

VIDEO_WIDTH, VIDEO_HEIGHT = 960, 336  # a panorama of scene.py, twice as large
_BACK, _FRONT = 250.0, 328.0  # height in the image of the feet at depth 0 and at depth 1, pixels
_BODY_SHARE = 0.92  # of the height of a person's box
_NOBODY = 0  # whose pixels the street and the column are


class Sighting(NamedTuple):
    """A person in a frame.

    Attributes:
        pid: From 1 on.
        box: x, y, width, height in pixels, of the whole person: also of what is hidden or outside of the image.
        visible: Share of the person's pixels that can be seen, 0 to 1.
    """

    pid: int
    box: tuple[float, float, float, float]
    visible: float


class Frame(NamedTuple):
    """One image of the video, (H, W, 3) uint8 RGB, and who is in it, by pid."""

    pixels: np.ndarray
    sightings: tuple[Sighting, ...]


def walking_video(rng: np.random.Generator, people: int = 8, frames: int = 200) -> Iterator[Frame]:
    """Renders a street in which persons walk to and fro, about ten frames a second.

    They hide one another, pass behind a column, turn back, and leave the picture to come again. As in the training
    set some are twins, who differ in one piece of clothing.

    Args:
        rng: Source of every random number; the same state gives the same video.
        people: How many persons.
        frames: How many images.

    Yields:
        Frames of VIDEO_HEIGHT x VIDEO_WIDTH pixels.
    """
    persons = sample_people(rng, people)
    walks = [plan_walk(rng, frames, VIDEO_WIDTH) for _ in persons]
    camera = make_cameras(int(rng.integers(2**32)), 6)[int(rng.integers(6))]
    street = camera.panorama.resize((VIDEO_WIDTH, VIDEO_HEIGHT), Image.Resampling.BICUBIC)
    column = _column(rng)
    for number in range(frames):
        image, owners = street.copy(), np.full((VIDEO_HEIGHT, VIDEO_WIDTH), _NOBODY, np.int32)
        sizes = _draw_people(image, owners, persons, walks, number)
        image.paste(column, mask=column.getchannel("A"))
        owners[np.asarray(column)[..., 3] > 127] = _NOBODY
        seen = np.bincount(owners.ravel(), minlength=people + 1)
        sightings = [
            Sighting(pid, _box(persons[pid - 1], walks[pid - 1], number), float(seen[pid]) / size)
            for pid, size in sorted(sizes.items())
        ]
        yield Frame(np.asarray(_filmed(image, camera, rng)), tuple(s for s in sightings if s.visible > 0))


def detections(
    frame: Frame, rng: np.random.Generator, *, visible: float = 0.35, missed: float = 0.02, jitter: float = 0.03
) -> tuple[np.ndarray, np.ndarray]:
    """What a good detector would find: who can be seen well enough, in a box that is a little off.

    Args:
        frame: Of the video.
        rng: Source of every random number.
        visible: Persons of whom less can be seen are not found.
        missed: Share of the others that is not found either.
        jitter: Standard deviation of the box's centre and size, as a share of its size.

    Returns:
        Boxes (N, 4) float64, x, y, width, height, in random order; and the true pids (N,), for a test to know.
    """
    found = [s for s in frame.sightings if s.visible >= visible and rng.random() >= missed]
    order = rng.permutation(len(found))
    boxes = np.array([found[index].box for index in order]).reshape(-1, 4)
    centres, sizes = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
    centres = centres + jitter * sizes * rng.standard_normal(sizes.shape)
    sizes = sizes * np.exp(jitter * rng.standard_normal((len(sizes), 1)))
    return np.concatenate([centres - sizes / 2, sizes], axis=1), np.array([found[i].pid for i in order], dtype=int)


def _draw_people(
    image: Image.Image, owners: np.ndarray, persons: Sequence[Person], walks: Sequence[Walk], number: int
) -> dict[int, int]:
    """Draws those who are there, the farthest first; `owners` (H, W) becomes the pid of whom a pixel shows.

    Returns:
        By pid, the pixels of the whole person, those outside of the image too.
    """
    there = [index for index, walk in enumerate(walks) if not np.isnan(walk.x[number])]
    there.sort(key=lambda index: walks[index].depth[number])
    for index in there:
        feet = (float(walks[index].x[number]), _feet(walks[index], number))
        draw_shadow(image, feet, _scale(persons[index], walks[index], number))
    sizes = {}
    for index in there:
        layer, (left, top) = _figure(persons[index], walks[index], number)
        image.paste(layer, (left, top), layer.getchannel("A"))
        mask = np.asarray(layer)[..., 3] > 127
        sizes[index + 1] = int(mask.sum())
        inside = mask[max(0, -top) : VIDEO_HEIGHT - top, max(0, -left) : max(0, VIDEO_WIDTH - left)]
        place = owners[max(0, top) : top + mask.shape[0], max(0, left) : max(0, left + mask.shape[1])]
        place[inside] = index + 1
    return sizes


def _figure(person: Person, walk: Walk, number: int) -> tuple[Image.Image, tuple[int, int]]:
    """The person on a transparent layer, and where in the image its corner lies."""
    scale = _scale(person, walk, number)
    x, crown = float(walk.x[number]), _feet(walk, number) - 0.985 * scale
    half, above = round(0.5 * scale), round(0.1 * scale)
    left, top = round(x) - half, round(crown) - above
    layer = Image.new("RGBA", (2 * half * FINENESS, (above + round(1.06 * scale)) * FINENESS))
    pose = Pose(float(walk.yaw[number]), float(walk.phase[number]), float(walk.stride[number]))
    draw_person(Canvas(layer, (x - left, crown - top), scale), person, pose)
    return layer.reduce(FINENESS), (left, top)


def _box(person: Person, walk: Walk, number: int) -> tuple[float, float, float, float]:
    scale = _scale(person, walk, number)
    height = scale / _BODY_SHARE
    top = _feet(walk, number) - 0.985 * scale - (height - scale) / 2
    return float(walk.x[number] - height / 4), float(top), float(height / 2), float(height)


def _feet(walk: Walk, number: int) -> float:
    return float(_BACK + (_FRONT - _BACK) * walk.depth[number])


def _scale(person: Person, walk: Walk, number: int) -> float:
    return body_height(float(walk.depth[number])) * person.height


def _column(rng: np.random.Generator) -> Image.Image:
    """A layer with a column for posters, nearer to the camera than everybody."""
    layer = Image.new("RGBA", (VIDEO_WIDTH, VIDEO_HEIGHT))
    draw = ImageDraw.Draw(layer)
    x, half, top = rng.uniform(0.3, 0.7) * VIDEO_WIDTH, rng.uniform(30, 50), rng.uniform(60, 100)
    draw.rectangle((x - half, top, x + half, VIDEO_HEIGHT), (148, 146, 138))
    draw.rectangle((x - half - 5, top - 12, x + half + 5, top), (84, 86, 84))
    colours = list(CLOTHES.values())
    for y in np.arange(top + 12, VIDEO_HEIGHT - 60, 70):
        poster = shaded(colours[rng.integers(len(colours))], rng.uniform(0.8, 1.1))
        draw.rectangle((x - 0.7 * half, y, x + 0.5 * half, y + 56), (226, 224, 216))
        draw.rectangle((x - 0.7 * half + 4, y + 4, x + 0.5 * half - 4, y + 36), poster)
    return layer


def _filmed(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The look of the camera; unlike `camera.develop`, which films one visit after another, it does not change."""
    return expose(image, camera.gamma, camera.saturation, np.asarray(camera.gains), camera.noise, rng)
