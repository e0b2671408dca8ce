"""Writes the state of a training while the training goes on."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from utils.checkpoint import save_tensors
from utils.errors import UserError

logger = logging.getLogger(__name__)


class StateWriter:
    """Takes a snapshot of a state and writes it to one file, in a thread of its own.

    The weights and what the optimizer keeps of them are most of a state, and only an update changes them. So on a CPU
    they are copied while the next step computes its gradients, and `wait_until_copied` keeps its update back, should
    it come before the copy is complete. A GPU copies them at once, which takes it less than a millisecond.

    Args:
        path: the file; it is replaced when the new one is complete.
        device: what the training computes on.
        beforehand: called, in the thread, before the file is replaced: brings to the disk what a run that goes on from
            it relies on.
        writes: whether this process writes at all; of several only the first does.
    """

    def __init__(
        self, path: Path, device: torch.device, beforehand: Callable[[], None], *, writes: bool = True
    ) -> None:
        self.path = path
        self.device = device
        self.beforehand = beforehand
        self.writes = writes
        self.last_save = time.monotonic()
        """When a state was last taken; seconds of the monotonic clock."""
        self.written = ""
        """Where the run stood whose state lies in the file, in words; "" while nothing was written."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="last.pth")
        self._writing: Future[None] | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._in_trouble = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def write(self, state: dict[str, Any], updated: Collection[Tensor], where: str) -> None:
        """Begin to write a state. One that is still being written is waited for.

        What cannot be written, for lack of room above all, is told, and the file stays as it was.

        Args:
            state: tensors, plain values, and dicts and lists of these.
            updated: those of its tensors that do not change before `wait_until_copied` returns.
            where: the run stands, for messages: "step 120".
        """
        self.last_save = time.monotonic()
        if not self.writes:
            return
        self.finish()
        later = {tensor.data_ptr() for tensor in updated if tensor.device.type == "cpu"}
        now = _map_tensors(state, lambda tensor: tensor if tensor.data_ptr() in later else tensor.detach().clone())
        self._copied.clear()
        event = None
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        self._writing = self._pool.submit(self._write, now, later, event, where)

    def write_now(self, state: dict[str, Any], where: str) -> None:
        """Write a state and wait until it lies in the file, or could not be written; `written` says which."""
        self.write(state, (), where)
        self.finish()

    def wait_until_copied(self) -> None:
        """Return once the tensors of the last state may change."""
        self._copied.wait()

    def finish(self) -> None:
        """Wait until the last state is written, or could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, state: dict[str, Any], later: Collection[int], event: torch.cuda.Event | None, where: str) -> None:
        try:
            state = _on_cpu(state, event, later)
        finally:
            self._copied.set()
        try:
            self.beforehand()
            save_tensors(self.path, state)
        except UserError as error:
            stays = f"; that of {self.written} stays" if self.written else ""
            logger.warning("%s; the state of %s is not saved%s", error, where, stays)
            self._in_trouble = True
            return
        if self._in_trouble:
            logger.info("%s: written again, at %s", self.path, where)
        self.written, self._in_trouble = where, False


def _on_cpu(state: dict[str, Any], event: torch.cuda.Event | None, later: Collection[int]) -> dict[str, Any]:
    """The state in memory of its own."""
    if event is None:
        return _map_tensors(state, lambda tensor: _copy(tensor) if tensor.data_ptr() in later else tensor)
    event.synchronize()
    # In a stream of its own, so that the training's stream does not wait for the transfer.
    with torch.cuda.stream(torch.cuda.Stream()):
        return _map_tensors(state, lambda tensor: tensor.cpu())


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same dicts and lists with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _map_tensors(entry, change) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(entry, change) for entry in value)
    return value


def _copy(tensor: Tensor) -> Tensor:
    """A copy in the same memory format, made by this thread alone: torch would call for all others to help it.

    They have the next step to compute.
    """
    return torch.from_numpy(tensor.detach().numpy().copy(order="K"))
