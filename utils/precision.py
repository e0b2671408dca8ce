"""How a network computes: its floating-point format, and whether it is compiled."""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from utils.errors import ParamsError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
"""Values of the key `precision`."""
CompileName = Literal["auto", "on", "graphs", "off"]
"""Values of the key `compile`."""
STEPS_WORTH_COMPILING = 4000
"""Compilation takes 25 to 60 s, and a compiled step of a ResNet-50 takes about 10 ms less; both are estimates, of an
H200. A shorter training ends sooner without."""
TRITON_CAPABILITY = (7, 0)
"""Lowest compute capability that torch compiles for."""


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


class Compilation(NamedTuple):
    """Whether network and losses are compiled, and why not where they could be."""

    mode: Literal["on", "graphs", "off"]
    reason: str = ""
    """Why "auto" does not compile on a GPU; otherwise empty."""


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
    return values.float() if values.dtype.itemsize < 4 else values


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


def choose_compilation(name: CompileName, device: torch.device, num_steps: int | None = None) -> Compilation:
    """The mode that `compile` asks for; "auto" compiles on a GPU where that is possible and pays.

    On a CPU compiled steps were no faster, measured.

    Args:
        name: value of the key.
        device: what is trained on.
        num_steps: of the whole training, not of what remains, so that a resumed run chooses the same; None: enough.

    Raises:
        ParamsError: CUDA graphs without a GPU, or what is asked for is not possible here.
    """
    if name == "graphs" and device.type != "cuda":
        raise ParamsError('compile: "graphs" needs a GPU; set "auto", "on" or "off"')
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return Compilation("off")
    if name == "auto" and num_steps is not None and num_steps < STEPS_WORTH_COMPILING:
        return Compilation("off", f'{num_steps} steps would not make up for the time it takes; "on" compiles')
    missing = " and ".join(_missing_for_compilation(device))
    if name == "auto":
        return Compilation("off", f"it needs {missing}") if missing else Compilation("on")
    if missing:
        raise ParamsError(f'compile: "{name}" needs {missing}; or set "off"')
    return Compilation(name)


def _missing_for_compilation(device: torch.device) -> Iterator[str]:
    """What torch.compile needs for this device and does not find."""
    # As triton searches for a compiler of its launchers, and torch for one of its kernels on the CPU.
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            yield "the Python package triton"
        if torch.cuda.get_device_capability(device) < TRITON_CAPABILITY:
            yield f"a GPU of compute capability {'.'.join(map(str, TRITON_CAPABILITY))} or higher"
        language, variable, compilers = "C", "CC", ("gcc", "clang")
    else:
        language, variable, compilers = "C++", "CXX", ("g++",)
    chosen = os.environ.get(variable)
    if not any(shutil.which(compiler) for compiler in ([chosen] if chosen else compilers)):
        found = f"{variable} names {chosen}, which is not there" if chosen else f"install {' or '.join(compilers)}"
        yield f"a {language} compiler ({found})"
    scheme = sysconfig.get_default_scheme()
    # Debian has the headers in the folder of the other scheme.
    include = Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme))
    if not (include / "Python.h").is_file():
        yield f"Python.h (install python3-dev; it is not in {include})"
