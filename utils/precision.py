"""The floating-point format in which a network computes."""

from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch

from utils.errors import ParamsError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
"""Values of the key `precision`."""


class Precision(NamedTuple):
    """The format of a network's activations; weights are always float32.

    name: "fp32", "bf16" or "fp16"; dtype: as torch calls it.
    """

    name: str
    dtype: torch.dtype

    @property
    def scales_gradients(self) -> bool:
        """Whether gradients must be scaled up so that they do not underflow, as in float16."""
        return self.dtype == torch.float16

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """torch.autocast in this format; disabled for float32."""
        return torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)


FP32 = Precision("fp32", torch.float32)
BF16 = Precision("bf16", torch.bfloat16)
FP16 = Precision("fp16", torch.float16)


def evaluation_precision(name: PrecisionName, device: torch.device) -> Precision:
    """The format for evaluation: that of `precision` on a GPU that supports it, else float32."""
    if device.type != "cuda" or (name == "bf16" and not _has_bf16(device)):
        return FP32
    return choose_precision(name, device)


def at_least_fp32(values: torch.Tensor) -> torch.Tensor:
    """The values in at least float32, in which losses are computed: half precision is widened, float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """The format of the key `precision`; "auto" is bfloat16 on a GPU that supports it, else float32.

    Raises:
        ParamsError: the device does not support it.
    """
    match name:
        case "auto":
            return BF16 if device.type == "cuda" and _has_bf16(device) else FP32
        case "bf16" if device.type == "cuda" and not _has_bf16(device):
            raise ParamsError('precision: this GPU does not compute in bf16; set "fp16" or "fp32"')
        case "fp16" if device.type != "cuda":
            raise ParamsError('precision: "fp16" needs a GPU; set "auto" or "fp32"')
        case _:
            return {"fp32": FP32, "bf16": BF16, "fp16": FP16}[name]


def _has_bf16(device: torch.device) -> bool:
    """Whether a GPU multiplies matrices in bfloat16."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def choose_compilation(
    name: Literal["auto", "on", "graphs", "off"], device: torch.device
) -> Literal["on", "graphs", "off"]:
    """The mode that `compile` asks for; "auto" compiles on a GPU. On a CPU compiled steps were no faster, measured.

    Raises:
        ParamsError: CUDA graphs without a GPU.
    """
    if name == "graphs" and device.type != "cuda":
        raise ParamsError('compile: "graphs" needs a GPU; set "auto", "on" or "off"')
    if name == "auto":
        return "on" if device.type == "cuda" else "off"
    return name
