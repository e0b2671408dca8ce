"""A rendered street with synthetic pedestrians who occlude each other, turn back, leave and return, with ground truth.

rng = np.random.default_rng(0)
for frame in walking_video(rng):
    boxes, found = detect(frame, rng)
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.synthetic.camera import expose, make_cameras
from data.synthetic.canvas import FINENESS, Canvas
from data.synthetic.figure import draw_person
from data.synthetic.identity import Person, sample_people
from data.synthetic.pose import Pose
from data.synthetic.render import draw_shadow

WIDTH, HEIGHT = 960, 336
BACK, FRONT = 250.0, 328.0  # y of the feet at depth 0 and 1, pixels
FAR, NEAR = 105.0, 150.0  # body height at depth 0 and 1, pixels
MARGIN = 100.0  # pixels beyond the edge of the image where a person is out of sight
SPEEDS = (0.055, 0.095)  # body heights per frame: 1.0 to 1.6 m/s at ten frames a second
MIN_VISIBLE = 0.35  # least share of a person's pixels in sight for it to count as visible


class Frame(NamedTuple):
    """One image and the visible persons in it.

    Attributes:
        pixels: (HEIGHT, WIDTH, 3) uint8 RGB.
        pids: (N,) int, from 1 on.
        boxes: (N, 4) x, y, width, height in pixels, of the whole persons, hidden parts included.
    """

    pixels: np.ndarray
    pids: np.ndarray
    boxes: np.ndarray


class Walk(NamedTuple):
    """One person's way through a video, arrays (frames,): axis of the body in pixels, depth 0 to 1, and pose."""

    x: np.ndarray
    depth: np.ndarray
    yaw: np.ndarray
    phase: np.ndarray
    stride: np.ndarray


def walking_video(rng: np.random.Generator, people: int = 8, frames: int = 200) -> Iterator[Frame]:
    """Render the video; some of the persons are twins, who differ in one piece of clothing.

    Args:
        rng: Source of every random number; the same state gives the same video.
        people: Number of persons.
        frames: Number of images.
    """
    persons = sample_people(rng, people)
    walks = [plan_walk(rng, frames) for _ in persons]
    camera = make_cameras(int(rng.integers(2**32)), 6)[int(rng.integers(6))]
    street = camera.panorama.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    for number in range(frames):
        image, owner = street.copy(), np.zeros((HEIGHT, WIDTH), np.int32)
        sizes, boxes = np.ones(people + 1), np.zeros((people + 1, 4))
        for index in sorted(range(people), key=lambda index: walks[index].depth[number]):
            sizes[index + 1], boxes[index + 1] = draw_walker(
                image, owner, index + 1, persons[index], [float(values[number]) for values in walks[index]]
            )
        visible = np.bincount(owner.ravel(), minlength=people + 1) / sizes
        pids = 1 + np.flatnonzero(visible[1:] >= MIN_VISIBLE)
        filmed = expose(image, camera.gamma, camera.saturation, np.asarray(camera.gains), camera.noise, rng)
        yield Frame(np.asarray(filmed), pids, boxes[pids])


def detect(
    frame: Frame, rng: np.random.Generator, missed: float = 0.02, jitter: float = 0.03
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a good detector.

    Args:
        frame: From `walking_video`.
        rng: Source of every random number.
        missed: Share of the persons that is not found.
        jitter: Standard deviation of the box's centre and size, as a share of its size.

    Returns:
        Boxes (M, 4) in random order, and (M,) the index into the frame's persons of each.
    """
    found = rng.permutation(np.flatnonzero(rng.random(len(frame.pids)) >= missed))
    places, sizes = frame.boxes[found, :2], frame.boxes[found, 2:]
    scaled = sizes * np.exp(jitter * rng.standard_normal((len(found), 1)))
    places = places + (sizes - scaled) / 2 + jitter * sizes * rng.standard_normal((len(found), 2))
    return np.concatenate([places, scaled], axis=1), found


def plan_walk(rng: np.random.Generator, frames: int) -> Walk:
    """Draw the path of a person who crosses the street, may stop and turn back, leaves and returns."""
    left, right = -MARGIN, WIDTH + MARGIN
    times, places, depths = [0.0], [rng.uniform(left, right)], [rng.random()]
    edge = rng.choice([left, right])
    while times[-1] < frames:
        turns_back = rng.random() < 0.45
        place = rng.uniform(0.25, 0.75) * WIDTH if turns_back else edge
        pause = rng.integers(12) if turns_back else rng.integers(20, 70)
        arrival = times[-1] + max(1.0, abs(place - places[-1]) / (rng.uniform(*SPEEDS) * NEAR))
        times += [arrival, arrival + pause]
        places += [place] * 2
        depths += [np.clip(depths[-1] + rng.uniform(-0.6, 0.6), 0.0, 1.0)] * 2
        edge = left + right - edge
    clock = np.arange(frames + 1)
    x = np.interp(clock, times, places)
    depth = np.interp(clock[:-1], times, depths)
    steps = np.diff(x) / (FAR + (NEAR - FAR) * depth)
    heading = np.convolve(np.pad(np.sign(steps), 3, mode="edge"), np.full(7, 1 / 7), mode="valid")
    stride = np.minimum(5.2 * np.abs(steps), 0.5)
    return Walk(x[:-1], depth, np.pi / 2 * heading, 3.3 * np.pi * np.cumsum(np.abs(steps)), stride)


def draw_walker(
    image: Image.Image, owner: np.ndarray, pid: int, person: Person, at: list[float]
) -> tuple[int, tuple[float, float, float, float]]:
    """Draw a person at (x, depth, yaw, phase, stride) and mark its pixels in `owner` (HEIGHT, WIDTH).

    Returns:
        The number of the person's pixels, those outside of the image included, and its box.
    """
    x, depth, *pose = at
    feet = BACK + (FRONT - BACK) * depth
    scale = (FAR + (NEAR - FAR) * depth) * person.height
    half, above, crown = round(0.5 * scale), round(0.1 * scale), feet - 0.985 * scale
    left, top = round(x) - half, round(crown) - above
    layer = Image.new("RGBA", (2 * half * FINENESS, (above + round(1.06 * scale)) * FINENESS))
    draw_person(Canvas(layer, (x - left, crown - top), scale), person, Pose(*pose))
    layer = layer.reduce(FINENESS)
    draw_shadow(image, (x, feet), scale)
    image.paste(layer, (left, top), layer.getchannel("A"))
    mask = np.asarray(layer)[..., 3] > 127
    inside = mask[max(0, -top) : max(0, HEIGHT - top), max(0, -left) : max(0, WIDTH - left)]
    region = owner[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]]
    region[inside] = pid
    height = scale / 0.92
    return int(mask.sum()), (x - height / 4, crown - (height - scale) / 2, height / 2, height)
