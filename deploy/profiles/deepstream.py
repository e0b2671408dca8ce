"""DeepStream's nvtracker (NvDCF, NvDeepSORT): RGB with an offset per channel and a single scale."""

from pathlib import Path

import numpy as np

from deploy.card import ModelCard
from deploy.profiles.profile import Profile

OFFSETS, FACTOR = (123.675, 116.28, 103.53), 0.01735207
"""Of pixels in 0..255, as in the tracker's shipped files. The single scale replaces ImageNet's three deviations."""


class DeepStream(Profile):
    """Source: the Gst-nvtracker page of the DeepStream documentation; TensorRT rounds as `networkMode` says."""

    consumer = "DeepStream"
    template, separator = "nvtracker.yml", ", "
    """Its configuration, a file in this folder, and what separates the offsets in it."""
    mean = (OFFSETS[0] / 255, OFFSETS[1] / 255, OFFSETS[2] / 255)
    std = (1 / (255 * FACTOR), 1 / (255 * FACTOR), 1 / (255 * FACTOR))
    precisions = ("fp32",)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """FACTOR * (RGB - OFFSETS)."""
        values = np.float32(FACTOR) * (pixels - np.array(OFFSETS, np.float32))
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def sidecar(self, path: Path, card: ModelCard) -> tuple[str, str]:
        """The template's name after that of the model: NAME.nvtracker.yml, the tracker's section ReID."""
        template = Path(__file__).with_name(self.template).read_text(encoding="utf-8")
        offsets = self.separator.join(map(str, OFFSETS))
        text = template.format(name=path.name, card=card, offsets=offsets, factor=FACTOR)
        return f"{path.stem}.{self.template}", text
