"""What the processes of a run ask for between two steps, agreed among all."""

from typing import NamedTuple

import torch
from torch import Tensor, distributed

from utils.distributed import this_process


class Asked(NamedTuple):
    """What some process asked for."""

    stop: int = 0
    """Number of the signal that asked to end; 0: none did."""
    save: bool = False
    """Whether the state is to be saved."""


class Requests:
    """Every process says after each step what it asks for, and all get the same answer: what any of them asked for.

    A signal reaches the processes at different steps, and only the first looks at the clock; yet they must stop, and
    save, at the same step. Nobody waits for the answer: with several processes it is that to the step before.
    """

    def __init__(self) -> None:
        self._sent: tuple[Tensor, distributed.Work] | None = None

    def exchange(self, mine: Asked) -> Asked:
        """What all ask for; every process must call this after each step."""
        if this_process().world_size == 1:
            return mine
        answer = self._answer()
        # On the CPU, where it needs no device to come to rest.
        wish = torch.tensor([mine.stop, int(mine.save)])
        work = distributed.all_reduce(wish, distributed.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._sent = wish, work
        return answer

    def close(self) -> Asked:
        """The last answer; every process must call this before it goes another way."""
        return self._answer()

    def _answer(self) -> Asked:
        if self._sent is None:
            return Asked()
        (wish, work), self._sent = self._sent, None
        work.wait()
        stop, save = wish.tolist()
        return Asked(stop, bool(save))
