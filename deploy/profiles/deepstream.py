"""DeepStream's nvtracker (NvDCF, NvDeepSORT): RGB with an offset per channel and a single scale."""

from pathlib import Path

import numpy as np

from deploy.card import ModelCard
from deploy.profiles.profile import Profile

OFFSETS, FACTOR = (123.675, 116.28, 103.53), 0.01735207
"""Of pixels in 0..255, as in the tracker's shipped files. The single scale replaces ImageNet's three deviations."""

REID = """\
# Replace the ReID section of the tracker's file (ll-config-file) by this one.
ReID:
  reidType: 2  # 1: NvDeepSORT, 2: re-association of NvDCF, 3: both
  onnxFile: {name}  # a path that the process can read
  modelEngineFile: {name}_b100_gpu0_fp16.engine  # written by TensorRT on the first start
  batchSize: 100
  workspaceSize: 1000
  networkMode: 1  # 0: fp32, 1: fp16
  inputOrder: 0  # NCHW
  inferDims: [3, {card.img_h}, {card.img_w}]
  colorFormat: 0  # RGB
  offsets: [{offsets}]
  netScaleFactor: {factor}
  keepAspc: 0  # resize without padding, as in training
  reidFeatureSize: {card.embedding_dim}
  reidHistorySize: 100
  addFeatureNormalization: 1
"""


class DeepStream(Profile):
    """Source: the Gst-nvtracker page of the DeepStream documentation; TensorRT rounds as `networkMode` says."""

    consumer = "DeepStream"
    mean = (OFFSETS[0] / 255, OFFSETS[1] / 255, OFFSETS[2] / 255)
    std = (1 / (255 * FACTOR), 1 / (255 * FACTOR), 1 / (255 * FACTOR))
    precisions = ("fp32",)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """FACTOR * (RGB - OFFSETS)."""
        values = np.float32(FACTOR) * (pixels - np.array(OFFSETS, np.float32))
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def sidecar(self, path: Path, card: ModelCard) -> tuple[str, str]:
        """NAME.nvtracker.yml, the tracker's section ReID."""
        offsets = ", ".join(map(str, OFFSETS))
        return f"{path.stem}.nvtracker.yml", REID.format(name=path.name, card=card, offsets=offsets, factor=FACTOR)
