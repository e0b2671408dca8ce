"""This process: its rank, as torchrun sets it, and the processors it may use. Without importing torch."""

import os

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
"""Environment variables: rank and number of processes, of all machines and of this one."""
RESTARTS, MAX_RESTARTS = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
"""How often torchrun restarted all processes because one had died, and how often it may."""


def is_launched() -> bool:
    """Whether torchrun started this process, alone or with others."""
    return all(name in os.environ for name in (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE))


def launched_as() -> tuple[int, int]:
    """Local rank and local world size; (0, 1) without torchrun."""
    return (int(os.environ[LOCAL_RANK]), int(os.environ[LOCAL_WORLD_SIZE])) if is_launched() else (0, 1)


def is_rank_zero() -> bool:
    """Whether torchrun started this process as rank 0, or torchrun did not start it.

    For log lines and progress bars, which exist without a process group; within one ask `this_process()`.
    """
    return not is_launched() or os.environ[RANK] == "0"


def num_restarts() -> int:
    """How often torchrun has restarted all processes."""
    return int(os.environ.get(RESTARTS, "0"))


def may_be_restarted() -> bool:
    """Whether torchrun restarts all processes when one dies."""
    return int(os.environ.get(MAX_RESTARTS, "0")) > 0


def num_cpus() -> int:
    """Processors granted to this process, which in a container or under taskset are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_own_cpus() -> int:
    """This process's share of them, among the processes that torchrun started on the machine."""
    return max(1, num_cpus() // launched_as()[1])
