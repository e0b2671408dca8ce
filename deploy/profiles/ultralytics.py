"""Ultralytics' trackers (`with_reid: True`): RGB in 0..1 and exactly one output."""

import numpy as np

from deploy.profiles.profile import Profile


class Ultralytics(Profile):
    """Source: ultralytics/trackers/utils/reid.py of Ultralytics 8.4.190, which resizes to the input's height and width.

    Versions before 8.4.175 resize to a square of the input's height: export_params.resize makes the graph take such.
    """

    consumer = "Ultralytics"
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    rounds_pixels = False
    allows_resize = True

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """RGB / 255."""
        return np.ascontiguousarray((pixels / np.float32(255)).transpose(0, 3, 1, 2))
