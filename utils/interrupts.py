"""SIGINT (Ctrl-C) and SIGTERM: end the program at once, or at the next point where its state can be saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from utils.distributed import is_one_of_several
from utils.process import is_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal interrupted this process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM, as a shell shows it."""
        return 128 + self.number


class StopRequest:
    """The signal that asked this process to stop."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0 while there was none."""


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Within this block a signal raises Interrupted wherever the program is, so that it can clean up."""
    is_raised = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_raised
        if is_raised and is_launched():  # torchrun repeats signals
            return
        is_raised = True
        raise Interrupted(number)

    with _handled_by(stop):
        yield


@contextmanager
def interrupts_noted() -> Iterator[StopRequest]:
    """Within this block a signal is only noted; the block checks the request and stops where it can.

    A second signal raises Interrupted at once, except under torchrun, which repeats signals that every process has
    received, and kills the processes that do not end in time.

    Raises:
        Interrupted: after a signal the block ended without stopping for it; or, with several processes, it failed
            because others had stopped and closed their connections.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number and not is_launched():
            raise Interrupted(number)
        request.number = request.number or number

    with _handled_by(note):
        try:
            yield request
        except RuntimeError as error:
            # The connection to a process that has ended.
            if request.number and is_one_of_several():
                raise Interrupted(request.number) from error
            raise
    if request.number:
        raise Interrupted(request.number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Set a handler; signals that are ignored stay so, as in background jobs of a shell."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
