"""SIGINT (Ctrl-C) and SIGTERM: what asks a program to end, at once or when its work is at a good place."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from utils.distributed import is_one_of_several
from utils.process import is_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell shows of a process that the signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class StopRequest:
    """Whether a signal has asked to end."""

    def __init__(self) -> None:
        self.number = 0
        """The signal's; 0 while there was none."""


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Within this block a signal raises Interrupted wherever the program is, so that it can clean up behind itself."""

    request = StopRequest()

    def stop(number: int, frame: FrameType | None) -> None:
        if request.number and is_launched():
            return
        request.number = number
        raise Interrupted(number)

    with _handled_by(stop):
        yield


@contextmanager
def interrupts_noted() -> Iterator[StopRequest]:
    """Within this block a signal is only noted; who goes through the block looks at it and ends at a good place.

    A second signal raises Interrupted at once. Not under torchrun, which repeats what every process got already, and
    which kills those that are not gone within its own patience.

    Raises:
        Interrupted: the block ended without having heeded a signal; or, in one of several processes, it failed after
            one, which then is why: others have ended, and their connections with them.
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
            # A connection to a process that has ended; without others it is a failure like any other.
            if request.number and is_one_of_several():
                raise Interrupted(request.number) from error
            raise
    if request.number:
        raise Interrupted(request.number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Set a handler; what the process was started to ignore, as a shell's background jobs are, stays ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, handler)
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
