"""What a run keeps on disk: the state to resume from, written while training continues, and the best model."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, distributed

from config.params import CheckpointOptions
from engine.consistency import check_fingerprint
from utils.checkpoint import Checkpoint, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from utils.distributed import fail_together, this_process, wait_for_all
from utils.errors import DataError, UserError

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything with a state that is saved and resumed, as torch's modules and optimizers have."""

    def state_dict(self) -> Any:
        """Tensors, plain values, and dicts and lists of these."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Continue from what `state_dict` returned."""
        ...


class Request(NamedTuple):
    """What some process requests."""

    stop: int = 0
    """Number of the signal that asked to stop; 0: none did."""
    save: bool = False
    """Whether the state is to be saved."""


class StopConsensus:
    """All processes stop, and save, after the same step, although signals reach them at different ones.

    After each step every process states its request, and all get the same answer: what any of them requested. With
    several processes it is the answer to the requests of the step before, so that no process waits for it.
    """

    def __init__(self) -> None:
        self._sent: tuple[Tensor, distributed.Work] | None = None

    def exchange(self, stop: int, save: bool) -> Request:
        """The combined request; every process must call this after each step."""
        if this_process().world_size == 1:
            return Request(stop, save)
        answer = self._answer()
        # On the CPU, so that no GPU has to be waited for.
        mine = torch.tensor([stop, int(save)])
        work = distributed.all_reduce(mine, distributed.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._sent = mine, work
        return answer

    def close(self) -> int:
        """The last answer's signal; every process must call this after its last step."""
        return self._answer().stop

    def _answer(self) -> Request:
        if self._sent is None:
            return Request()
        (request, work), self._sent = self._sent, None
        work.wait()
        stop, save = request.tolist()
        return Request(stop, bool(save))


class AsyncCheckpointer:
    """Copies a state and writes it to one file in a thread, while training continues. Only rank 0 writes.

    Args:
        path: the file; it is replaced when the new one is complete.
        options: when the state is saved, besides after the last step of every epoch.
        flush: called before the file is replaced: writes what a resumed run relies on, such as curves.
    """

    def __init__(self, path: Path, options: CheckpointOptions, flush: Callable[[], None]) -> None:
        self.path = path
        self.options = options
        self.flush = flush
        self.last_save = time.monotonic()
        """When a state was last saved; seconds of the monotonic clock."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=path.name)
        self._writing: Future[None] | None = None
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def is_due(self, step: int) -> bool:
        """Whether to save after so many steps."""
        return self.options.every_steps > 0 and step % self.options.every_steps == 0

    def is_time(self) -> bool:
        """Whether enough time has passed since the last save; only rank 0 looks at the clock."""
        return this_process().is_rank_zero and 0 < 60 * self.options.every_minutes <= time.monotonic() - self.last_save

    def save_first(self, state: dict[str, Any]) -> None:
        """Write the state of a run that is about to begin; every process must call this.

        Raises:
            DataError: it cannot be written.
        """
        with fail_together():
            if this_process().is_rank_zero:
                self.flush()
                save_tensors(self.path, state)

    def save(self, state: dict[str, Any], step: int, *, wait: bool = False) -> None:
        """Write the state after `step`; every process must call this.

        A state that cannot be written, as the disk is full, is logged, and the file stays as it was.

        Args:
            wait: return only when it is written, or could not be.
        """
        self.last_save = time.monotonic()
        if this_process().is_rank_zero:
            self.finish()
            self._writing = self._pool.submit(self._write, _copied(state), step)
        if wait:
            self.finish()
            # If a process ended earlier, torchrun would end the one that writes.
            wait_for_all()

    def finish(self) -> None:
        """Wait until the last state is written, or could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, state: dict[str, Any], step: int) -> None:
        try:
            self.flush()
            save_tensors(self.path, state)
        except UserError as error:
            logger.warning("%s; the state of step %d is not saved, an earlier one stays", error, step)
            self._has_failed = True
            return
        if self._has_failed:
            logger.info("%s: written again, at step %d", self.path, step)
        self._has_failed = False


def _copied(value: Any) -> Any:
    """The same dicts and lists, with copies of the tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(entry) for entry in value)
    return value


@contextmanager
def read_state(path: Path, fingerprint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The state saved in a file, to be loaded within this context.

    Raises:
        DataError: the file is missing or damaged, was saved with another fingerprint, or does not fit what loads it.
    """
    state = load_tensors(path)
    if not isinstance(state, dict) or not isinstance(state.get("fingerprint"), dict):
        raise DataError(f"{path}: not the state of a training; the run cannot be resumed from it")
    check_fingerprint(path, state["fingerprint"], fingerprint)
    try:
        yield state
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: its state does not fit this run ({reason})") from error


class BestCheckpoint:
    """Keeps the model with the highest score of a run; with evaluation off, the last one. Only rank 0 writes.

    A model that cannot be written, as the disk is full, is kept in memory and tried again with every later one.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score: float | None = None
        """Of the model in the file; None while no evaluation has chosen one."""
        self._waiting: tuple[float | None, Checkpoint] | None = None

    def is_better(self, score: float | None) -> bool:
        """Whether a model with this score is the best so far, on rank 0; None: nothing is measured, the last one is."""
        known = [self.score, self._waiting and self._waiting[0]]
        is_best = score is None or all(score > other for other in known if other is not None)
        return is_best and this_process().is_rank_zero

    def keep(self, score: float | None, checkpoint: Checkpoint) -> None:
        """Keep a copy of a model as the best, to be written next."""
        self._waiting = score, checkpoint

    def write_if_possible(self) -> None:
        """Write the model that still waits to be written, if there is one."""
        try:
            self.write()
        except DataError as error:
            logger.warning("%s; training continues, and the model is kept in memory until there is room", error)

    def write(self) -> None:
        """Write the model that still waits to be written, if there is one.

        Raises:
            DataError: it cannot be written.
        """
        if self._waiting is not None:
            score, checkpoint = self._waiting
            save_checkpoint(self.path, checkpoint)
            self._waiting, self.score = None, score

    def restore(self, score: float | None) -> None:
        """Continue with the file of a run that is resumed, and its score."""
        self.score = score
        if score is None or not this_process().is_rank_zero:
            return
        try:
            load_checkpoint(self.path)
        except DataError as error:
            logger.warning("the best model is lost, so the next one measured is kept, whatever its score: %s", error)
            self.score = None
