"""SIGINT (Ctrl-C) and SIGTERM: end the program at once, or at the next point where its state can be saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from utils.distributed import is_one_of_several, this_process
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
