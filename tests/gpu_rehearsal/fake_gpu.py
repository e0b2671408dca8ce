"""A GPU that is none: its tensors say that they lie on "cuda:0", and compute on the CPU.

It refuses what a real one refuses: tensors of several devices in one operation, a generator of another device, a view
of its memory by NumPy, and operations that are not deterministic where only those are allowed. It knows where a program
would wait for it. Forward, backward and optimizer run on it, with the results of the CPU; only autocast has no effect,
as torch takes its tensors for those of device "meta".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.gpu_rehearsal.operations import ANY_SCALAR, COPIES, INDEXING, NOT_DETERMINISTIC, READING, aten

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
META = torch.device("meta")


class HostWaitError(AssertionError):
    """The program would wait for the GPU."""


class FakeGpuTensor(Tensor):
    """A tensor on the fake GPU."""

    on_cpu: Tensor
    """Its values."""

    def __new__(cls, on_cpu: Tensor) -> Self:
        # Device "meta" has no streams, so that autograd needs no GPU; what Python sees is the property below.
        tensor = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=META,
        )
        tensor.on_cpu = on_cpu
        return tensor

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CUDA

    is_cuda, is_meta = True, False

    def tolist(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Torch refuses it for subclasses.
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FakeGpuTensor({self.on_cpu})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class FakeGenerator(torch.Generator):
    """A generator of the CPU that says it is of the device it was asked for."""

    devices: ClassVar[dict[int, torch.device]] = {}
    """By the address of the generator, as operations get another Python object of it."""

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        generator = super().__new__(cls)
        cls.devices[generator._cdata] = torch.device(device)  # pyright: ignore[reportAttributeAccessIssue]
        return generator

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.devices[self._cdata]  # pyright: ignore[reportAttributeAccessIssue]


class FakeGpu(TorchDispatchMode):
    """Within this context device "cuda" is the fake GPU."""

    # Torch then looks for no driver when a program names the device.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.device = CUDA
        self.forbidden = False
        self.operations: set[str] = set()  # the names of all that were used
        # Page-locked memory, by its address; kept, so that nothing else gets the address.
        self.pinned: dict[int, Tensor] = {}
        torch._C._ensureCUDADeviceGuardSet()  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> Self:
        # Tensors of numbers are made on the CPU and copied, instead of on the device by a real driver.
        torch._C._set_only_lift_cpu_tensors(True)  # pyright: ignore[reportAttributeAccessIssue]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Within this context a `HostWaitError` is raised where the program would wait."""
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    def wait(self, why: str) -> None:
        """What the program does where it waits."""
        if self.forbidden:
            raise HostWaitError(f"waits for the GPU: {why}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            torch.is_inference_mode_enabled()
            and (result := self._taken_apart(func, args, kwargs)) is not NotImplemented
        ):
            return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.operations.add(func.overloadpacket.__name__)
        _check_devices(func, tensors, kwargs)
        _check_determinism(func, tensors)
        if why := self._reason_to_wait(func, tensors, args, kwargs):
            self.wait(f"{func}: {why}")
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is aten._pin_memory.default or kwargs.pop("pin_memory", False):
            result = args[0].clone() if func is aten._pin_memory.default else func(*args, **kwargs)
            self.pinned[result.untyped_storage().data_ptr()] = result
            return result
        return _compute(func, args, kwargs)

    def _taken_apart(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The result of the operations that make up `func`, which autograd finds where inference mode is off."""
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, FakeGpuTensor) and tensor.untyped_storage().data_ptr() in self.pinned

    def _reason_to_wait(self, func: Any, tensors: list[Tensor], args: Any, kwargs: Mapping[str, Any]) -> str | None:
        on_gpu = [tensor for tensor in tensors if isinstance(tensor, FakeGpuTensor)]
        if func in COPIES:
            # The source comes last; a target comes before it, or is described by the device.
            *_, source = tensors
            to_gpu = _is_gpu(kwargs["device"]) if kwargs.get("device") else isinstance(tensors[0], FakeGpuTensor)
            from_gpu = isinstance(source, FakeGpuTensor)
            asynchronous = kwargs.get("non_blocking") or args[2:] == (True,)
            if from_gpu and not to_gpu and not asynchronous:
                return "a blocking copy from the GPU"
            if to_gpu and not from_gpu and source.dim() and not (asynchronous and self._is_pinned(source)):
                return "a blocking copy, or one of pageable memory, to the GPU"
            return None
        if not on_gpu:
            return None
        if func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                return "the number of the elements that a mask chooses"
            return None if all(isinstance(index, FakeGpuTensor) for index in indices) else "indices of the CPU"
        if kwargs.get("output_size") is None and (
            func is aten.equal.default or any(tag in func.tags for tag in READING)
        ):
            return "the program reads values, or a size that depends on them"
        return None


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")


def _check_devices(func: Any, tensors: list[Tensor], kwargs: Mapping[str, Any]) -> None:
    """What a real GPU refuses.

    Raises:
        RuntimeError: tensors or generator of several devices.
    """
    on_gpu = [isinstance(tensor, FakeGpuTensor) for tensor in tensors]
    if any(on_gpu) and not all(on_gpu) and func not in COPIES:
        takes_scalars = torch.Tag.pointwise in func.tags or func in ANY_SCALAR
        others = [tensor for tensor in tensors if not isinstance(tensor, FakeGpuTensor)]
        if func in INDEXING:
            others = others[:1] if others[0] is tensors[0] else []
        if any(tensor.dim() or not takes_scalars for tensor in others):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
    generator = kwargs.get("generator")
    if generator is not None:
        to_gpu = _is_gpu(kwargs["device"]) if kwargs.get("device") else any(on_gpu)
        device = FakeGenerator.devices.get(generator._cdata, CPU)
        if _is_gpu(device) != to_gpu:
            raise RuntimeError(f"{func}: expected a generator of the tensors' device, found one of {device}")


def _check_determinism(func: Any, tensors: list[Tensor]) -> None:
    """Raise a RuntimeError as a real GPU does."""
    on_gpu = any(isinstance(tensor, FakeGpuTensor) for tensor in tensors)
    raises = func.overloadpacket.__name__ in NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled()
    if on_gpu and raises:
        raise RuntimeError(f"{func}: has no deterministic implementation")


def _compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The operation on the CPU, whose results lie on the device that it would leave them on."""
    on_gpu = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeGpuTensor)]
    to_gpu = bool(on_gpu)
    if kwargs.get("device") is not None:
        to_gpu = _is_gpu(kwargs["device"])
        kwargs = {**kwargs, "device": CPU}
    # Not after an assignment to `data`, which torch makes without asking.
    assert all(map(_has_layout_of_values, on_gpu)), f"{func}: got a tensor whose layout is not that of its values"
    args, kwargs = tree_map(lambda leaf: leaf.on_cpu if isinstance(leaf, FakeGpuTensor) else leaf, (args, kwargs))
    result = func(*args, **kwargs)
    # An operation in place returns its argument.
    known = {id(tensor.on_cpu): tensor for tensor in on_gpu}

    def on_its_device(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not to_gpu:
            return leaf
        if id(leaf) in known:
            return known[id(leaf)]
        # In inference mode, too, a view of a normal tensor is a normal one.
        with torch.inference_mode(leaf.is_inference()):
            return FakeGpuTensor(leaf)

    return tree_map(on_its_device, result)


def _has_layout_of_values(tensor: FakeGpuTensor) -> bool:
    values = tensor.on_cpu
    strides = zip(tensor.shape, tensor.stride(), values.stride(), strict=True)
    return tensor.shape == values.shape and all(mine == other for size, mine, other in strides if size != 1)
