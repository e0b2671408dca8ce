"""What a device can do at most, what a training step asks of it, and the least time that would take.

Ceilings are measured: a large matrix product, a large convolution, a large copy. A step's work is counted operation by
operation while it runs: its floating-point operations, and its bytes, each input read once and each output written
once. No operation can take less than its arithmetic at the arithmetic ceiling, or its bytes at that of memory; the sum
of the larger ones is the floor of a step that runs its operations one after another.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

REPEATS = 7
CUDA_PRODUCT, CPU_PRODUCT = 8192, 2048
"""Rows and columns of the matrices; larger ones are no faster."""
CUDA_COPY_BYTES, CPU_COPY_BYTES = 2**31, 2**28
"""Far more than the caches hold."""
NO_WORK = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias")
"""Operations that touch no element, beside the views."""


class Ceiling(NamedTuple):
    """Rates that nothing on a device exceeds, per second."""

    operations: dict[str, float]
    """Floating-point operations by number format, the better of product and convolution; a multiply-add is two."""
    bytes: float
    """Read and written."""
    measured: dict[str, float]
    """Every figure behind these, by name."""


class Work(NamedTuple):
    """One operation of a step."""

    dtype: str
    """Of its first floating-point tensor; "" without one."""
    operations: float
    bytes: float


class Floor(NamedTuple):
    """The least time a step can take, and what it is made of."""

    seconds: float
    arithmetic_seconds: float
    """Of the operations whose arithmetic takes longer than their bytes."""
    memory_seconds: float
    """Of the others."""
    operations: float
    bytes: float


class WorkCounter(TorchDispatchMode):
    """Lists the work of every operation within its context, the backward pass's and the optimizer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Work] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do the operation and write down what it is."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if not _is_view(func) and packet.__name__ not in NO_WORK:
            written = result if result is not None else _changed(func, args)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, written)) if isinstance(leaf, Tensor)]
            operations = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            dtype = next((str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()), "")
            self.work.append(Work(dtype.removeprefix("torch."), float(operations), float(sum(map(_bytes, tensors)))))
        return result


def floor_of(work: list[Work], ceiling: Ceiling) -> Floor:
    """The least time for all of it, one operation after another."""
    arithmetic = memory = 0.0
    for one in work:
        # Only products and convolutions are counted as arithmetic, so another format than theirs has no ceiling.
        operating = one.operations / ceiling.operations[one.dtype] if one.operations else 0.0
        moving = one.bytes / ceiling.bytes
        if operating > moving:
            arithmetic += operating
        else:
            memory += moving
    totals = sum(one.operations for one in work), sum(one.bytes for one in work)
    return Floor(arithmetic + memory, arithmetic, memory, *totals)


class CeilingMeter:
    """Measures a device, on which nothing else should run meanwhile."""

    def __init__(self, device_name: str) -> None:
        self.device = torch.device(device_name)

    def measure(self, dtypes: tuple[torch.dtype, ...], quick: bool = False) -> Ceiling:
        """The ceilings in each number format; with `quick` of sizes that say nothing."""
        on_gpu = self.device.type == "cuda"
        size = 64 if quick else CUDA_PRODUCT if on_gpu else CPU_PRODUCT
        measured: dict[str, float] = {}
        operations: dict[str, float] = {}
        for dtype in dtypes:
            name = str(dtype).removeprefix("torch.")
            left, right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
            took = fastest(lambda left=left, right=right: left @ right, self.device)
            measured[f"{name} product"] = 2 * size**3 / took
            measured[f"{name} convolution"] = _convolution(self.device, dtype, quick=quick)
            operations[name] = max(measured[f"{name} product"], measured[f"{name} convolution"])
        size = 2**16 if quick else CUDA_COPY_BYTES if on_gpu else CPU_COPY_BYTES
        source, target = (torch.ones(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        measured["copy"] = 2 * size / fastest(lambda: target.copy_(source), self.device)
        return Ceiling(operations, measured["copy"], measured)


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some repeats, after a first that does not count."""
    work()
    return min(seconds(work, device) for _ in range(REPEATS))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a device takes to do it."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the middle one of some repeats, after a first that does not count."""
    work()
    return statistics.median(seconds(work, device) for _ in range(REPEATS))


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds that the device takes for a piece of work, one after another without a pause."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait_for(device)
    return (time.perf_counter() - start) / times


def _convolution(device: torch.device, dtype: torch.dtype, *, quick: bool) -> float:
    """Operations per second of a 3 x 3 convolution as the middle of a ResNet-50 has it, channels last."""
    batch, channels, height, width = (1, 8, 4, 4) if quick else (64 if device.type == "cuda" else 8, 256, 48, 16)
    images = torch.randn(batch, channels, height, width, device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    took = fastest(lambda: F.conv2d(images, weight, padding=1), device)
    return 2 * batch * height * width * channels**2 * 9 / took


def _is_view(func: Any) -> bool:
    """Whether what an operation returns is its argument seen in another way, by its signature."""
    return any(found.alias_info is not None and not found.alias_info.is_write for found in func._schema.returns)


def _changed(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that an operation without result writes to, as the optimizer's do."""
    pairs = zip(func._schema.arguments, args, strict=False)
    return [value for argument, value in pairs if argument.alias_info is not None and argument.alias_info.is_write]


def _bytes(tensor: Tensor) -> int:
    """What a tensor takes in memory; an expanded one no more than what it was expanded from."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
