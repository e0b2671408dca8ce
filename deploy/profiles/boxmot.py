"""BoxMOT (ReID backend for ONNX): ImageNet-normalised RGB, and a JSON file that names the architecture."""

import hashlib
import json
from pathlib import Path

import numpy as np

from data.augmentation.normalisation import Channels
from deploy.card import ModelCard
from deploy.profiles.profile import Profile

MEAN: Channels = (0.485, 0.456, 0.406)
STD: Channels = (0.229, 0.224, 0.225)
SIZES = {(256, 128): "resnet50", (384, 128): "lmbn_n"}
"""Sizes that every version resizes to, by a model name in the file's name."""
LABELS = {
    "osnet_ain": "osnet_ain_x1_0",
    "osnet_ibn": "osnet_ibn_x1_0",
    "osnet": "osnet_x1_0",
    "timm:mobilenet": "mobilenetv2_x1_0",
}
"""Names that BoxMOT knows, by the start of ours; any other backbone is called resnet50."""


class BoxMOT(Profile):
    """Source: boxmot/reid (backends/base_backend.py, core/crops.py, core/artifacts.py) of BoxMOT 25.0.0."""

    consumer = "BoxMOT"
    mean, std = MEAN, STD

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """RGB / 255, then ImageNet's mean and standard deviation."""
        values = (pixels / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def file_name(self, backbone: str, height: int, width: int) -> str:
        """Contains a name that BoxMOT knows, as versions before 23 derive the size of the images from it."""
        return f"{_label(backbone, height, width)}_boxmot.onnx"

    def warning(self, height: int, width: int) -> str:
        """Versions before 23 know two sizes of person images, and read the name of the file."""
        if (height, width) not in SIZES:
            return f"images of {height} x {width} need BoxMOT 23 or later; earlier versions resize to 256 x 128"
        return ""

    def sidecar(self, path: Path, card: ModelCard) -> tuple[str, str]:
        """NAME.onnx.metadata.json, as BoxMOT's own export writes it."""
        size = [card.img_h, card.img_w]
        metadata = {
            "schema_version": 1,
            "model_name": _label(card.backbone, *size),
            "preprocess": "resize",
            "img_size": size,
            "model_kwargs_schema_version": 1,
            "model_kwargs": {"img_size": size},
            "format": "onnx",
            "input_name": self.input_name,
            "output_names": list(self.output_names),
            "input_shape": [1, 3, *size],
            "precision": "float32",
            "dynamic_batch": True,
            "opset": card.opset,
            "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        return f"{path.name}.metadata.json", json.dumps(metadata, indent=2)


def _label(backbone: str, height: int, width: int) -> str:
    if (height, width) == (384, 128):
        return SIZES[height, width]
    return next((label for start, label in LABELS.items() if backbone.startswith(start)), SIZES[256, 128])
