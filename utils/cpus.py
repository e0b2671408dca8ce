"""How many processors this process may use."""

import os

from utils.torchrun import launched_as


def num_cpus() -> int:
    """Processors granted to this process, which in a container or under taskset are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_own_cpus() -> int:
    """This process's part of them, among the processes that torchrun started on the machine."""
    return max(1, num_cpus() // launched_as()[1])
