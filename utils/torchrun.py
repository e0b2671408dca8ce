"""What torchrun tells a process through its environment. Without torch, so that any program may ask."""

import os

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
"""Which of how many processes this one is, of all and of its machine."""
RESTARTS, MAX_RESTARTS = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
"""How often all processes were started again because one had died, and how often they may be."""


def is_launched() -> bool:
    """Whether torchrun started this process, alone or with others."""
    return all(name in os.environ for name in (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE))


def launched_as() -> tuple[int, int]:
    """Which of how many processes of its machine torchrun made this one; 0 of 1 without torchrun."""
    return (int(os.environ[LOCAL_RANK]), int(os.environ[LOCAL_WORLD_SIZE])) if is_launched() else (0, 1)


def speaks() -> bool:
    """Whether this process speaks to the user: the first of those that torchrun started."""
    return not is_launched() or os.environ[RANK] == "0"


def num_restarts() -> int:
    """How often torchrun has started all processes again."""
    return int(os.environ.get(RESTARTS, "0"))


def may_be_restarted() -> bool:
    """Whether torchrun starts all processes again when one dies."""
    return int(os.environ.get(MAX_RESTARTS, "0")) > 0
