"""The section `export_params`: how export_onnx writes a trained network."""

from typing import Literal

from pydantic import Field

from utils.options import Options


class ExportParams(Options):
    """Input, precision and checks of the exported model."""

    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Layout of the uint8 RGB input: (B, H, W, 3), as images are decoded, or (B, 3, H, W)."""
    resize: bool = False
    """Resize inside the model, which then takes images of any size, one size a batch; otherwise img_h x img_w only."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of the network; "int8" is calibrated on training images. Embeddings are float32."""
    simplify: bool = False
    """Simplify the graph with onnxslim."""
    opset: int = Field(default=20, ge=18, le=23)
    """ONNX opset version; 18 is the first that resizes with antialiasing."""
    calibration_images: int = Field(default=256, ge=8)
    """Training images for the calibration of "int8"."""
    measured_images: int = Field(default=2000, ge=0)
    """Maximum of test images for the metrics and thresholds of the exported model; 0 = not measured."""
