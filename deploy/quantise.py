"""A network in whole numbers of 8 bits: a quarter of the size, and faster where the processor is made for them."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from deploy.exportable import PIXELS

BATCH_SIZE = 16


class Calibration(CalibrationDataReader):
    """Batches of images from which the ranges of values are learnt.

    Args:
        images: (H, W, 3) uint8 each, all of one size.
        layout: of the pixels that the model takes, "nhwc" or "nchw".
    """

    def __init__(self, images: Sequence[np.ndarray], layout: str) -> None:
        stacked = (np.stack(images[first : first + BATCH_SIZE]) for first in range(0, len(images), BATCH_SIZE))
        self.batches = iter([batch if layout == "nhwc" else batch.transpose(0, 3, 1, 2) for batch in stacked])

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next batch by the name of the model's input; None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {PIXELS: np.ascontiguousarray(batch)}


def quantise(source: Path, target: Path, images: Sequence[np.ndarray], layout: str) -> None:
    """Write a model whose convolutions compute in 8 bits, weights per channel, activations per tensor.

    The rest stays in float32: pixels before, pooling, reduction and normalisation after, where it costs little time and
    much accuracy. Weights take 7 of the 8 bits: processors without VNNI add two products in 16 bits, which 8 overflow.

    Args:
        source: the model in float32.
        target: where to write.
        images: (H, W, 3) uint8 each, on which the activations' ranges are measured.
        layout: of the pixels that the model takes.

    Source: Jacob et al. 2018, arXiv 1712.05877 (affine quantisation).
    """
    with tempfile.TemporaryDirectory(prefix="quantise") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Calibration(images, layout),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv"],
            calibrate_method=CalibrationMethod.MinMax,
        )
