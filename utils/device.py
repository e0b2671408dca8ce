"""Which device this process of a run computes on."""

import os
from collections.abc import Sequence

import torch

from utils.errors import ParamsError
from utils.process import is_launched, launched_as, num_cpus, num_own_cpus


def choose_device(parallels: Sequence[int]) -> torch.device:
    """The GPU in `parallels` at this process's local rank; if empty, the GPU of that number, or the CPU.

    Raises:
        ParamsError: a GPU does not exist, or there are more processes than GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
    """
    if launched_as()[1] > 1:
        # torchrun sets one thread per process; use this process's share of the processors.
        torch.set_num_threads(num_own_cpus())
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # All batches have one shape, so that the search for the fastest convolutions pays off. Its result may vary.
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            # Read by cuBLAS at its first use; torch requires it for deterministic matrix products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)


def describe_device(device: torch.device) -> str:
    """One line for the log."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"computing on GPU {device.index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"computing on the CPU: {num_cpus()} cores, {torch.get_num_threads()} threads (no GPU in use)"
