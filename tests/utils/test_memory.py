"""Free memory from readings that a machine or a container could give, and messages where there is too little."""

from pathlib import Path

import pytest
import torch

from utils.errors import UserError
from utils.memory import explain_oom, free_memory

UNLIMITED = 9223372036854771712
MEMINFO = "MemTotal:       24000 kB\nMemFree:        1000 kB\nMemAvailable:   20000 kB\nHugePages_Total:       0\n"
ALL = 20_000 * 1024


def write(root: Path, **files: str | int) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def write_group(folder: Path, limit: str | int, usage: int, inactive: int) -> None:
    write(folder, **{"memory.max": limit, "memory.current": usage, "memory.stat": f"anon 5\ninactive_file {inactive}"})


def write_old_group(folder: Path, limit: int, usage: int, inactive: int) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}"
    write(folder, **{"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, **{"proc/meminfo": MEMINFO})
    return tmp_path


def test_a_machine_without_control_groups_gives_what_is_available(root: Path) -> None:
    assert free_memory(root) == ALL


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_the_tightest_of_all_groups_around_the_process_counts(root: Path) -> None:
    write(root, **{"proc/self/cgroup": "0::/user/job/step"})
    groups = root / "sys/fs/cgroup"
    write_group(groups / "user/job/step", "max", 100, 0)
    assert free_memory(root) == ALL
    write_group(groups / "user", 10_000, 5000, 1000)
    assert free_memory(root) == 6000
    write_group(groups / "user/job", 7000, 4000, 500)
    assert free_memory(root) == 3500
    write_group(groups / "user/job", 7000, 9000, 500)
    assert free_memory(root) == 0
    write_group(groups / "user/other", 1, 1, 0)
    write_group(groups / "user/job", "max", 4000, 500)
    assert free_memory(root) == 6000


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../outside"])
def test_a_container_finds_its_group_at_the_root(root: Path, path: str) -> None:
    write(root, **{"proc/self/cgroup": f"0::{path}"})
    write_group(root / "sys/fs/cgroup", 8000, 3000, 0)
    assert free_memory(root) == 5000


def test_control_groups_of_the_first_version(root: Path) -> None:
    write(root, **{"proc/self/cgroup": "5:devices:/\n4:cpu,memory:/job\n1:name=systemd:/a:b\n0::/"})
    write_old_group(root / "sys/fs/cgroup/memory", UNLIMITED, 10**9, 0)
    assert free_memory(root) == ALL
    write_old_group(root / "sys/fs/cgroup/memory/job", 8000, 3000, 1000)
    assert free_memory(root) == 6000


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_little_memory_is_explained_whichever_library_says_it(error: RuntimeError) -> None:
    with pytest.raises(UserError) as told, explain_oom("counting", "count less"):
        raise error
    assert str(told.value) == f"out of memory, counting: {str(error).splitlines()[0]}\ncount less"


def test_another_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="illegal"), explain_oom("counting", "count less"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
