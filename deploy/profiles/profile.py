"""The interface of an export profile, and the resizing that most consumers do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np

from data.augmentation.normalisation import Channels
from data.decoding import Resize
from data.images import decode
from deploy.card import ModelCard

PixelLayout = Literal["nhwc", "nchw"]


class Profile(ABC):
    """How a program, the consumer, uses an embedding network: float32 (B, 3, H, W) in, the embedding out.

    The embedding is not of unit length, as consumers normalise it themselves. `Ours` differs in all of this.
    """

    consumer: str
    """Its name in messages."""
    is_own = False
    """Whether it is `Ours`."""
    input_name = "images"
    output_names: tuple[str, ...] = ("embedding",)
    layout: PixelLayout = "nchw"
    mean: Channels
    """What it subtracts from pixels in 0..1, by R, G, B; undone in the graph unless the network's own is the same."""
    std: Channels
    """What it divides by after that."""
    is_bgr = False
    """Whether its first channel is blue."""
    rounds_pixels = True
    """Whether it rounds resized pixels to whole values, as OpenCV does with uint8."""
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    """Values of export_params.precision that it can run."""

    @abstractmethod
    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Resized pixels (B, H, W, 3) RGB -> (B, 3, H, W) float32 as the consumer feeds them.

        A plain copy of the consumer's own code, with which the graph is compared.
        """

    def read(self, path: Path, resize: Resize) -> np.ndarray:
        """An image file -> (H, W, 3) values in 0..255, resized as the consumer does: bilinear without antialiasing."""
        pixels = bilinear(decode(path), *resize[:2])
        return pixels.round() if self.rounds_pixels else pixels

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the images that the graph of a network for this size takes."""
        return height, width

    def file_name(self, backbone: str, height: int, width: int) -> str:
        """The name of the exported file, unless --out says another; "" if that of the checkpoint is taken."""
        return f"model_{self.consumer.lower()}.onnx"

    def warning(self, height: int, width: int) -> str:
        """What the consumer may not be able to do with images of this size; "" if nothing."""
        return ""

    def sidecar(self, path: Path, card: ModelCard) -> tuple[str, str] | None:
        """The name and text of a file that is written beside the model at `path`; None: none."""
        return None


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (h, w, C) without antialiasing, as OpenCV and torch do: (height, width, C) float32, not rounded."""
    top, bottom, down = _neighbours(image.shape[0], height)
    left, right, along = _neighbours(image.shape[1], width)
    down, along = down[:, None, None], along[:, None]
    rows = image[top] * (1 - down) + image[bottom] * down
    return rows[:, left] * (1 - along) + rows[:, right] * along


def _neighbours(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones around its centre, and the weight of the second."""
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    first = np.floor(place).astype(int)
    return first, np.minimum(first + 1, size - 1), (place - first).astype(np.float32)
