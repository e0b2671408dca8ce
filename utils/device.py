"""Which device this process of a run computes on."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import ParamsError, first_line
from utils.memory import explain_oom
from utils.process import is_launched, launched_as, num_cpus, num_own_cpus

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""There while a driver is loaded."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that hides GPUs; empty or -1: all of them."""


def choose_device(parallels: Sequence[int]) -> torch.device:
    """The GPU in `parallels` at this process's local rank; if empty, the GPU of that number, or the CPU.

    Raises:
        ParamsError: a GPU does not exist or cannot be used, or there are more processes than GPUs.
    """
    available = torch.cuda.device_count() if _has_gpu() else 0
    if parallels and not available and (problem := driver_problem()):
        raise ParamsError(f"parallels: {problem}")
    local_rank, local_world_size = launched_as()
    if missing := [str(index) for index in parallels if index >= available]:
        raise ParamsError(
            f"parallels: there is no GPU {', '.join(missing)}; this machine has {available}; "
            "an empty list takes the first GPU, or the CPU where there is none"
        )
    if not parallels and not available:
        return torch.device("cpu")
    indices = parallels or range(available)
    if is_launched() and parallels and local_world_size != len(parallels):
        raise ParamsError(f"parallels: names {len(parallels)} GPUs, but torchrun started {local_world_size} processes")
    if local_world_size > len(indices):
        raise ParamsError(
            f"torchrun started {local_world_size} processes, but this machine has {available} GPUs; "
            "lower --nproc-per-node"
        )
    return torch.device("cuda", indices[local_rank])


def make_ready(device: torch.device, *, deterministic: bool = False) -> None:
    """Configure torch for the device; called once per process.

    Args:
        device: of this process.
        deterministic: use deterministic algorithms on a GPU; a CPU is deterministic anyway.

    Raises:
        UserError: the GPU has no memory left.
    """
    if launched_as()[1] > 1:
        # torchrun sets one thread per process; use this process's share of the processors.
        torch.set_num_threads(num_own_cpus())
    if device.type == "cuda":
        advice = "another program may hold it all (nvidia-smi shows which); stop that, or name another GPU in parallels"
        with explain_oom(f"starting on GPU {device.index}", advice):
            torch.cuda.set_device(device)
        # All batches have one shape, so that the search for the fastest convolutions pays off. Its result may vary.
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            # Read by cuBLAS at its first use; torch requires it for deterministic matrix products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU, or already there, on the device, without waiting for it: by way of page-locked memory."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def describe_device(device: torch.device) -> str:
    """A line for the log; on the CPU, another one if there is a GPU that torch cannot use."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"computing on GPU {device.index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    line = f"computing on the CPU: {num_cpus()} cores, {torch.get_num_threads()} threads (no GPU in use)"
    problem = driver_problem()
    return f"{line}\nwarning: {problem}" if problem else line


def driver_problem() -> str:
    """Why torch cannot use this machine's GPUs, and what to do; "" if it can, there are none, or all are hidden."""
    if torch.version.cuda is None:
        if not NVIDIA_DRIVER.exists():
            return ""
        return "this machine has an NVIDIA driver, but this torch was built without CUDA; install a torch built for it"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason = first_line(error).partition(". Please")[0]
        visible = os.environ.get(VISIBLE, "-1")
        if reason.startswith("No CUDA GPUs are available") and visible not in ("", "-1"):
            return f"{VISIBLE}={visible} names no GPU of this machine; unset it, or name one that nvidia-smi lists"
        if reason.startswith(("Found no NVIDIA driver", "No CUDA GPUs are available")):
            return ""
        advice = f"update the driver, or install a torch built for it (this one is built for CUDA {torch.version.cuda})"
        return f"torch cannot use the GPUs of this machine: {reason}; {advice}"
    return ""


def _has_gpu() -> bool:
    with warnings.catch_warnings():
        # torch warns of a driver that is too old, once; `driver_problem` says it better.
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()
