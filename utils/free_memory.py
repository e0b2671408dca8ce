"""How much memory this process may still take."""

from collections.abc import Iterator
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken without swapping, and without passing the limit of a container; None if nobody tells.

    Args:
        root: the folder in which `proc` and `sys` lie.

    Source: Documentation/filesystems/proc.rst (MemAvailable), admin-guide/cgroup-v2.rst (memory.max, memory.current,
    memory.stat) and admin-guide/cgroup-v1/memory.rst of the Linux kernel.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    available = int(_fields(meminfo)["MemAvailable:"]) * 1024
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left below each limit that a control group puts on this process: its own group and those around it."""
    memberships = root / "proc/self/cgroup"
    if not memberships.exists():
        return
    for line in memberships.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        # In a container the path may be the one outside, and what is mounted the group itself.
        group = Path(path.lstrip("/"))
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            if (left := _left_in(folder, *names)) is not None:
                yield left


def _left_in(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    """Bytes left in one control group; None where it sets no limit."""
    files = [folder / name for name in (limit_name, usage_name, "memory.stat")]
    if not all(file.exists() for file in files):
        return None
    limit = files[0].read_text().strip()
    if limit == "max":
        return None
    # Pages of files read long ago count as used, and yet go as soon as somebody needs the room.
    reclaimable = int(_fields(files[2]).get(reclaimable_name, 0))
    return int(limit) - int(files[1].read_text()) + reclaimable


def _fields(path: Path) -> dict[str, str]:
    """First word of each line -> the second."""
    words = (line.split() for line in path.read_text().splitlines())
    return {line[0]: line[1] for line in words if len(line) > 1}
