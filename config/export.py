"""The section `export_params`: how export_onnx writes a trained network."""

from typing import Literal

from pydantic import Field

from utils.options import Options


class ExportParams(Options):
    """What the exported model takes and computes in, and how it is tried before it is written."""

    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Order of the uint8 RGB pixels it takes: (B, H, W, 3) as images are decoded, or (B, 3, H, W)."""
    resize: bool = False
    """Resize inside the model: it takes images of any size, one size a batch; off: of img_h x img_w only."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Number format of the network; "int8" is calibrated on training images. The embedding is float32."""
    simplify: bool = False
    """Let onnxslim simplify the graph."""
    opset: int = Field(default=20, ge=18, le=23)
    """Version of ONNX's operators; the first that can resize with antialiasing is 18."""
    calibration_images: int = Field(default=256, ge=8)
    """Training images from which "int8" learns the ranges of values."""
    measured_images: int = Field(default=2000, ge=0)
    """Test images at most on which metrics and thresholds of the exported model are measured; 0 = not measured."""
