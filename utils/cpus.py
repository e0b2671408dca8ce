"""How many processors this process may use."""

import os


def num_cpus() -> int:
    """Processors granted to this process, which in a container or under taskset are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
