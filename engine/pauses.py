"""What happens between two steps: the state is saved when it is time, and a signal is obeyed."""

import time
from collections.abc import Callable

from engine.requests import Asked, Requests
from engine.resumable import Resumable
from engine.state_writer import StateWriter
from utils.distributed import this_process, wait_for_all
from utils.interrupts import Interrupted


class Pauses:
    """Saves and stops a training between its steps, all processes at the same one.

    Args:
        training: is saved.
        writer: gets the state when `checkpoint` asks for it, after the last step of an epoch, and before a stop.
    """

    def __init__(self, training: Resumable, writer: StateWriter) -> None:
        self.training = training
        self.writer = writer
        self.requests = Requests()

    def after_step(self, signal_number: int, collect: Callable[[], None]) -> None:
        """Save the state if it is time to, and stop if any process was asked to.

        Args:
            signal_number: of the signal that asked this process to stop; 0 = none did.
            collect: reads what the steps came to so far; called before a save.

        Raises:
            Interrupted: one was; the state is saved.
        """
        training, options = self.training, self.training.params.checkpoint
        elapsed = time.monotonic() - self.writer.last_save
        is_time = this_process().is_rank_zero and 0 < 60 * options.every_minutes <= elapsed
        asked = self.requests.exchange(Asked(signal_number, is_time))
        self._stop(asked.stop, collect)
        is_last = training.step == (training.epoch + 1) * training.steps_per_epoch
        by_steps = options.every_steps and training.step % options.every_steps == 0
        if is_last or by_steps or asked.save:
            collect()
            self.save()

    def after_last_step(self, collect: Callable[[], None]) -> None:
        """Stop if a process was asked to after its last step; every process must call this.

        Args:
            collect: as `after_step`.

        Raises:
            Interrupted: one was; the state is saved.
        """
        self._stop(self.requests.close().stop, collect)

    def save(self, *, now: bool = False) -> None:
        """Hand the state to the writer; every process must call this.

        Args:
            now: return only when it is written, or could not be.
        """
        training = self.training
        where, state = f"step {training.step}", training.state()
        if now:
            self.writer.write_now(state, where)
            # A process that ended earlier would make torchrun end the one that writes.
            wait_for_all()
        else:
            self.writer.write(state, training.updated_tensors(), where)

    def _stop(self, signal_number: int, collect: Callable[[], None]) -> None:
        if signal_number:
            collect()
            self.save(now=True)
            raise Interrupted(signal_number)
