"""What a run keeps on disk: the state to resume from and the best model, both written while training continues."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Protocol, Self

from torch import Tensor

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


class BestCheckpoint:
    """Keeps the model with the highest score of a run; with evaluation off, the last one. Only rank 0 writes.

    A model that cannot be written, as the disk is full, is kept in memory and tried again. One thread may keep models
    while another writes them.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score: float | None = None
        """Of the model in the file; None while no evaluation has chosen one."""
        self._waiting: tuple[float | None, Checkpoint] | None = None
        self._lock = Lock()

    def is_better(self, score: float | None) -> bool:
        """Whether a model with this score is the best so far, on rank 0; None: nothing is measured, the last one is."""
        with self._lock:
            known = [self.score, self._waiting and self._waiting[0]]
        is_best = score is None or all(score > other for other in known if other is not None)
        return is_best and this_process().is_rank_zero

    def keep(self, score: float | None, checkpoint: Checkpoint) -> None:
        """Keep a copy of a model as the best, to be written next."""
        with self._lock:
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
        waiting = self._waiting
        if waiting is None:
            return
        save_checkpoint(self.path, waiting[1])
        with self._lock:
            self.score = waiting[0]
            # Meanwhile a better one may have been kept.
            if self._waiting is waiting:
                self._waiting = None

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


class AsyncCheckpointer:
    """Writes states and the best model in a thread, in the order given, while training continues. Only rank 0 writes.

    Args:
        path: the file of the state; it is replaced when the new one is complete.
        options: when the state is saved, besides after the last step of every epoch.
        flush: called before the file is replaced: writes what a resumed run relies on, such as curves.
        best: the best model.
    """

    def __init__(self, path: Path, options: CheckpointOptions, flush: Callable[[], None], best: BestCheckpoint) -> None:
        self.path = path
        self.options = options
        self.flush = flush
        self.best = best
        self.last_save = time.monotonic()
        """When a state was last saved; seconds of the monotonic clock."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=path.name)
        self._writing: list[Future[None]] = []
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
            self._writing.append(self._pool.submit(self._write, _copied(state), step))
        if wait:
            self.finish()
            # If a process ended earlier, torchrun would end the one that writes.
            wait_for_all()

    def write_best(self) -> None:
        """Write the best model if one waits to be written; on failure it is tried again before every later state."""
        self._writing.append(self._pool.submit(self.best.write_if_possible))

    def finish(self) -> None:
        """Wait until everything is written, or could not be."""
        while self._writing:
            self._writing.pop(0).result()

    def _write(self, state: dict[str, Any], step: int) -> None:
        self.best.write_if_possible()
        # A run resumed from this state does not measure earlier models again: it has to know the one in the file now.
        state["best_score"] = self.best.score
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
