"""Ultralytics' trackers (`with_reid: True`): RGB in 0..1 and exactly one output."""

import numpy as np

from deploy.profiles.profile import Profile


class Ultralytics(Profile):
    """Images of the network's height and width.

    Source: ultralytics/trackers/utils/reid.py of Ultralytics 8.4.190.
    """

    consumer = "Ultralytics"
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    rounds_pixels = False

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """RGB / 255."""
        return np.ascontiguousarray((pixels / np.float32(255)).transpose(0, 3, 1, 2))


class UltralyticsSquare(Ultralytics):
    """Squares of the network's height, which the graph resizes, with blue as the first channel.

    Source: the same file of Ultralytics 8.4.100, whose crops are RGB already when it reverses their channels.
    """

    is_bgr = True

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """BGR / 255."""
        return super().encode(pixels[..., ::-1])

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """A square."""
        return height, height
