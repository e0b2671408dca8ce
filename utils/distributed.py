"""The processes of one run: rank and world size, what they exchange, and how they fail together.

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

from utils.errors import ReportedByOtherRankError, UserError
from utils.process import is_launched, launched_as

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: as long as the slowest may take to decode a data set."""


class Dist(NamedTuple):
    """This process among all of the run."""

    rank: int = 0
    """0 .. world_size - 1; only rank 0 writes files."""
    world_size: int = 1
    local_rank: int = 0
    """0 .. local_world_size - 1 on this machine."""
    local_world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is rank 0, which writes the run's files and reports to the user."""
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
def init_process_group(device: torch.device) -> Iterator[Dist]:
    """torch's process group of the processes that torchrun started, with `device` the current one if it is a GPU.

    Without torchrun there is none.
    """
    if not is_launched():
        yield Dist()
        return
    # Tensors on GPUs are sent by NCCL, small objects by Gloo, without waiting for a GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, world_size = next(distributed.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    store = fresh_part(store, rank, world_size)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    try:
        yield this_process()
    except ReportedByOtherRankError:
        raise
    except UserError as error:
        # Every process may see the same error; the first reports it.
        if store.add(f"reported: {error}", 1) > 1:
            raise ReportedByOtherRankError from None
        raise
    # Not after an error: it waits for the others, which may wait for this process.
    distributed.destroy_process_group()


def fresh_part(store: Store, rank: int, world_size: int) -> Store:
    """A new part of the store, which no process of an earlier start has written to; every process must call this.

    torchrun keeps its store when it restarts all processes, and then it still has the addresses of those that died.
    Each process asks under a unique name, and rank 0 answers all requests, also those of dead processes, until
    `world_size` processes have the answer.
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
    """Send the name to every process that asks, until `number` have it. Dead processes are not waited for."""
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


def broadcast_from_rank0(value: T) -> T:
    """The value of rank 0; every process must call this. The values of the others are ignored."""
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
    """Concatenate the rows of all processes, (N_r, ...) of rank r: (sum of N_r, ...).

    Every process must call this, with rows on the same type of device.
    """
    dist = this_process()
    if dist.world_size == 1:
        return rows
    numbers = gather_objects(len(rows))
    # Each rank in turn broadcasts its rows.
    whole = rows.new_empty((sum(numbers), *rows.shape[1:]))
    for rank, part in enumerate(whole.split(numbers)):
        if rank == dist.rank:
            part.copy_(rows)
        if len(part):
            distributed.broadcast(part, src=rank)
    return whole


def wait_for_all() -> None:
    """Return when every process has called this."""
    gather_objects(None)


@contextmanager
def fail_together() -> Iterator[None]:
    """Every process completes this block, or all fail. Inside it processes must not wait for each other.

    Raises:
        UserError: some process raised one. Rank 0 raises it, with the different messages of all processes; the others
            raise ReportedByOtherRankError.
    """
    mine: UserError | None = None
    try:
        yield
    except UserError as error:
        mine = error
    dist = this_process()
    if dist.world_size == 1:
        if mine is not None:
            raise mine
        return
    messages = gather_objects(None if mine is None else str(mine))
    if all(message is None for message in messages):
        return
    if not dist.is_rank_zero:
        raise ReportedByOtherRankError
    raise UserError(_combined(messages))


def _combined(messages: list[str | None]) -> str:
    """Each message once; with its ranks, unless all have the same."""
    ranks_of: dict[str, list[str]] = {}
    for rank, message in enumerate(messages):
        if message is not None:
            ranks_of.setdefault(message, []).append(str(rank))
    if len(ranks_of) == 1 and None not in messages:
        return next(iter(ranks_of))
    return "\n".join(
        f"process{'es' if len(ranks) > 1 else ''} {', '.join(ranks)} of {len(messages)}: {message}"
        for message, ranks in ranks_of.items()
    )
