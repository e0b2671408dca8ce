"""The processes of one run: who this one is among them, and what they tell each other.

A run has one process per device, started by torchrun. The process group is torch's own; without one there is a single
process, and everything here costs nothing.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store

from utils.errors import ToldElsewhereError, UserError
from utils.torchrun import is_launched, launched_as

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: as long as the slowest may need to decode a data set."""


class Dist(NamedTuple):
    """This process among all of the run."""

    rank: int = 0
    """0 .. world_size - 1; only rank 0 writes files."""
    world_size: int = 1
    local_rank: int = 0
    """0 .. local_world_size - 1 on this machine."""
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and speaks to the user."""
        return self.rank == 0

    def share(self, number: int) -> slice:
        """This process's part of `number` things: contiguous, in the order of the ranks, sizes differ by one at most.

        The parts of all ranks, end to end, are the whole.
        """
        return slice(number * self.rank // self.world_size, number * (self.rank + 1) // self.world_size)


def this_process() -> Dist:
    """This process in the process group; alone where there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Dist()
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    return Dist(rank, world_size, *launched_as())


def is_one_of_several() -> bool:
    """Whether there are other processes that may wait for this one."""
    return this_process().world_size > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[Dist]:
    """Join the other processes that torchrun started, with `device` the current one if it is a GPU.

    Without torchrun there is nobody to join.
    """
    if not is_launched():
        yield Dist()
        return
    # Tensors travel where they lie: through NCCL from GPU to GPU, small things through Gloo without waiting for one.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, world_size = next(distributed.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    store = fresh_part(store, rank, world_size)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    try:
        yield this_process()
    except ToldElsewhereError:
        raise
    except UserError as error:
        # What all find out for themselves is told by the first of them.
        if store.add(f"told: {error}", 1) > 1:
            raise ToldElsewhereError from None
        raise
    # Not after an error: the others may wait for this process for ever, and to leave in order is to wait for them.
    distributed.destroy_process_group()


def fresh_part(store: Store, rank: int, world_size: int) -> Store:
    """A part of the store that only the processes alive have ever written to; every one must call this.

    torchrun keeps its store when it starts all processes again, and then it still holds the addresses of the dead. Each
    process asks under a name nobody had before, and rank 0 answers all who ask, the dead too, until as many as should
    have heard it.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asked by {store.add('number asked', 1)}", own)
        store.wait([f"answer to {own}"], PATIENCE)
        name = store.get(f"answer to {own}").decode()
        store.add(f"{name} heard", 1)
    else:
        name = own
        _answer_all(store, name, world_size - 1)
    return PrefixStore(name, store)


def _answer_all(store: Store, name: str, number: int) -> None:
    """Tell the name to everybody who asks, until so many have heard it. Who died while asking is not waited for."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    known, waiting = 0, set[int]()
    while store.add(f"{name} heard", 0) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {number + 1} processes were there within {PATIENCE}")
        asked = store.add("number asked", 0)
        waiting |= {*range(known + 1, asked + 1)}
        known = asked
        ready = {each for each in waiting if store.check([f"asked by {each}"])}
        for each in ready:
            store.set(f"answer to {store.get(f'asked by {each}').decode()}", name)
        waiting -= ready
        if not ready:
            time.sleep(0.02)


def gather_objects(value: T) -> list[T]:
    """The values of all processes, small and picklable, in the order of their ranks; every process must call this."""
    dist = this_process()
    if dist.world_size == 1:
        return [value]
    values: list[T | None] = [None] * dist.world_size
    distributed.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def from_main(value: T) -> T:
    """The value of rank 0; every process must call this. What the others give does not matter."""
    if this_process().world_size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def mean_over_processes(values: Tensor) -> Tensor:
    """The elementwise mean over all processes; every process must call this. The argument stays as it is."""
    dist = this_process()
    if dist.world_size == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / dist.world_size


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, of which each may have another number (N_r, ...), end to end: (sum of N_r, ...).

    Every process must call this, with rows on the kind of device that all have theirs on.
    """
    dist = this_process()
    if dist.world_size == 1:
        return rows
    numbers = gather_objects(len(rows))
    # Each rank in turn sends what it has, into its place.
    whole = rows.new_empty((sum(numbers), *rows.shape[1:]))
    for rank, part in enumerate(whole.split(numbers)):
        if rank == dist.rank:
            part.copy_(rows)
        if len(part):
            distributed.broadcast(part, src=rank)
    return whole


def wait_for_all() -> None:
    """Return when every process has come here."""
    gather_objects(None)
