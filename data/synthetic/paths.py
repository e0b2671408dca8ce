"""Where the synthetic persons of a video walk, and how they hold themselves there."""

import math
from dataclasses import dataclass

import numpy as np

FAR, NEAR = 105.0, 150.0  # pixels of a body height at depth 0 and at depth 1
ROOM = 6.0  # body heights of ground between depth 0 and depth 1
_OUTSIDE = 0.6  # body heights from the edge of the image at which nothing of a person is seen
_SMOOTH = 7  # frames over which a person turns round, or comes to a halt
_LEG = 0.47  # body heights
_SPEEDS = (0.055, 0.095)  # body heights per frame: 1.0 to 1.6 m/s at ten frames a second
_STRIDE = 5.2  # radians of stride for a speed of one body height per frame


@dataclass(frozen=True)
class Walk:
    """One person's way through a video, arrays of shape (frames,); NaN while the person is away.

    Attributes:
        x: Of the body's axis, pixels from the left.
        depth: 0 is at the back of the scene, 1 at its front.
        yaw, phase, stride: See `pose.Pose`.
    """

    x: np.ndarray
    depth: np.ndarray
    yaw: np.ndarray
    phase: np.ndarray
    stride: np.ndarray


def body_height(depth: float) -> float:
    """Pixels of a body height at this depth."""
    return FAR + (NEAR - FAR) * depth


def plan_walk(rng: np.random.Generator, frames: int, width: int) -> Walk:
    """Draws the way of a person who crosses the scene, halts and turns back now and then, leaves and comes again.

    Args:
        rng: Source of every random number.
        frames: Length of the video.
        width: Of the image, pixels.
    """
    x, depth = np.full(frames, np.nan), np.full(frames, np.nan)
    side = -1 if rng.random() < 0.5 else 1
    place = float(rng.uniform(0.1, 0.9)) * width if rng.random() < 0.6 else None
    frame = 0 if place is not None else int(rng.integers(0, frames // 4 + 1))
    lane = float(rng.random())
    while frame < frames:
        start = place if place is not None else _beyond(side, width)
        side = -side  # towards the other side
        turns_back = rng.random() < 0.45
        end = float(rng.uniform(0.25, 0.75)) * width if turns_back else _beyond(side, width)
        goal = float(np.clip(lane + rng.uniform(-0.6, 0.6), 0.0, 1.0))
        across = (end - start) / body_height((lane + goal) / 2)
        steps = max(2, round(math.hypot(across, (goal - lane) * ROOM) / rng.uniform(*_SPEEDS)))
        _fill(x, frame, np.linspace(start, end, steps, endpoint=False))
        _fill(depth, frame, np.linspace(lane, goal, steps, endpoint=False))
        frame, lane = frame + steps, goal
        rest = int(rng.integers(0, 12)) if turns_back else 0
        _fill(x, frame, np.full(rest, end))
        _fill(depth, frame, np.full(rest, goal))
        frame, place = frame + rest, end
        if not turns_back:
            frame, place, lane = frame + int(rng.integers(20, 70)), None, float(rng.random())
            side = side if rng.random() < 0.6 else -side  # most come back from where they went
    return _walk(x, depth)


def _beyond(side: int, width: int) -> float:
    margin = _OUTSIDE * NEAR
    return -margin if side < 0 else width + margin


def _fill(values: np.ndarray, start: int, part: np.ndarray) -> None:
    """Writes as much of a part as lies before the end of the video."""
    room = max(0, len(values) - start)
    values[start : start + len(part)] = part[:room]


def _walk(x: np.ndarray, depth: np.ndarray) -> Walk:
    """Adds the body to its way: it faces where it goes, and its feet do not slide."""
    yaw, phase, stride = (np.full(len(x), np.nan) for _ in range(3))
    there = ~np.isnan(x)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        part = slice(first, last)
        across = _rate(x[part]) / (FAR + (NEAR - FAR) * depth[part])
        along = _rate(depth[part]) * ROOM
        speed = _smoothed(np.hypot(across, along))
        yaw[part] = _heading(across, along)
        stride[part] = np.minimum(_STRIDE * speed, 0.5)
        # Two steps move the body by four times the reach of a leg to one side.
        turns = speed / (4 * _LEG * np.sin(np.maximum(stride[part], 0.05)))
        phase[part] = 2 * math.pi * np.cumsum(turns)
    return Walk(x, depth, yaw, phase, stride)


def _rate(values: np.ndarray) -> np.ndarray:
    return np.gradient(values) if len(values) > 1 else np.zeros(len(values))


def _heading(across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Yaw of a body that moves so; who stands looks where the way led before."""
    angle = np.arctan2(across, along)
    moving = np.flatnonzero(np.hypot(across, along) > 0.01)
    if len(moving) == 0:
        return angle
    last = np.maximum(np.searchsorted(moving, np.arange(len(angle)), side="right") - 1, 0)
    kept = angle[moving[last]]
    return np.arctan2(_smoothed(np.sin(kept)), _smoothed(np.cos(kept)))


def _smoothed(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, _SMOOTH // 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
