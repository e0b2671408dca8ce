"""Where a person's box will be in the next frame: a Kalman filter of constant velocity.

A box is observed as its centre x and y, its aspect (width by height) and its height. The noise does not couple these
four, so each is filtered by itself: the mean (4, 2) holds value and velocity per frame of each, the covariance
(4, 2, 2) theirs.

Source: Wojke, Bewley, Paulus: Simple Online and Realtime Tracking with a Deep Association Metric, ICIP 2017, and its
published code for the sizes of the noise; there it is one filter of eight dimensions, which gives the same figures.
"""

from typing import NamedTuple

import numpy as np

GATE = 9.4877
"""Squared Mahalanobis distance that 95 % of the true observations stay below (chi squared, 4 degrees of freedom)."""

_POSITION, _VELOCITY = 1 / 20, 1 / 160  # standard deviations per height
_STEP = np.array([[1.0, 1.0], [0.0, 1.0]])


class Motion(NamedTuple):
    """State of the filter: mean (4, 2) and covariance (4, 2, 2) of centre x, centre y, aspect and height."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """The box (4,) that is believed in: x, y, width, height."""
        x, y, aspect, height = self.mean[:, 0]
        return np.array([x - aspect * height / 2, y - height / 2, aspect * height, height])


def begin(box: np.ndarray) -> Motion:
    """The state after the first sight of a (4,) box: it may move anywhere."""
    observed = _observed(box)
    height = observed[3]
    position = np.array([2 * _POSITION * height, 2 * _POSITION * height, 1e-2, 2 * _POSITION * height])
    velocity = np.array([10 * _VELOCITY * height, 10 * _VELOCITY * height, 1e-5, 10 * _VELOCITY * height])
    covariance = np.stack([position**2, velocity**2], axis=1)[:, :, None] * np.eye(2)
    return Motion(np.stack([observed, np.zeros(4)], axis=1), covariance)


def predict(motion: Motion) -> Motion:
    """The state one frame later."""
    height = motion.mean[3, 0]
    position = np.array([_POSITION * height, _POSITION * height, 1e-2, _POSITION * height])
    velocity = np.array([_VELOCITY * height, _VELOCITY * height, 1e-5, _VELOCITY * height])
    noise = np.stack([position**2, velocity**2], axis=1)[:, :, None] * np.eye(2)
    return Motion(motion.mean @ _STEP.T, _STEP @ motion.covariance @ _STEP.T + noise)


def update(motion: Motion, box: np.ndarray) -> Motion:
    """The state after the (4,) box has been observed."""
    gain = motion.covariance[:, :, 0] / _spread(motion)[:, None]
    surprise = _observed(box) - motion.mean[:, 0]
    covariance = motion.covariance - gain[:, :, None] * motion.covariance[:, None, 0]
    return Motion(motion.mean + gain * surprise[:, None], covariance)


def surprise(motion: Motion, boxes: np.ndarray) -> np.ndarray:
    """How little each of (N, 4) boxes fits: squared Mahalanobis distances (N,), see `GATE`."""
    observed = np.array([_observed(box) for box in boxes]).reshape(-1, 4)
    return ((observed - motion.mean[:, 0]) ** 2 / _spread(motion)).sum(axis=1)


def _observed(box: np.ndarray) -> np.ndarray:
    x, y, width, height = box
    return np.array([x + width / 2, y + height / 2, width / height, height])


def _spread(motion: Motion) -> np.ndarray:
    """Variance (4,) of an observation around the mean."""
    height = motion.mean[3, 0]
    noise = np.array([_POSITION * height, _POSITION * height, 1e-1, _POSITION * height])
    return motion.covariance[:, 0, 0] + noise**2
