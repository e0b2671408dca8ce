"""Which device a run computes on."""

from collections.abc import Sequence

import torch

from utils.cpus import num_cpus
from utils.errors import ParamsError


def choose_device(parallels: Sequence[int]) -> torch.device:
    """The GPU named in `parallels`, else the first GPU, else the CPU.

    Raises:
        ParamsError: the GPU named does not exist.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not parallels:
        return torch.device("cuda", 0) if available else torch.device("cpu")
    if parallels[0] >= available:
        raise ParamsError(
            f"parallels: there is no GPU {parallels[0]}; this machine has {available}; "
            "an empty list takes the first GPU, or the CPU where there is none"
        )
    return torch.device("cuda", parallels[0])


def describe_device(device: torch.device) -> str:
    """One line for the log: what the run computes on."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"computing on GPU {device.index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"computing on the CPU: {num_cpus()} cores, {torch.get_num_threads()} threads (no GPU in use)"
