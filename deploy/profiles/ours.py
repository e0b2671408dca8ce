"""The predictor and the service of this framework: raw pixels in, embeddings of unit length and their lengths out."""

from pathlib import Path

import numpy as np

from data.decoding import Resize
from data.images import decode
from deploy.profiles.profile import PixelLayout, Profile


class Ours(Profile):
    """uint8 RGB of a layout, "nhwc" or "nchw"; with export_params.resize of any size, one size a batch."""

    consumer = "Predictor"
    is_own = True
    output_names = ("embedding", "length")
    mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)

    def __init__(self, layout: PixelLayout = "nhwc") -> None:
        self.layout = layout

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (B, H, W, 3) in this layout."""
        return pixels if self.layout == "nhwc" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def read(self, path: Path, resize: Resize) -> np.ndarray:
        """As in training."""
        return decode(path, resize)

    def file_name(self, backbone: str, height: int, width: int) -> str:
        """None of its own."""
        return ""
