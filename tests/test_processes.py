import multiprocessing
import os
import time
import warnings

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessRaisedException

from tests.processes import run_in_processes
from utils.distributed import Dist, this_process


def who(offset: int) -> tuple[Dist, int, str, int]:
    return this_process(), offset + this_process().rank, os.environ["RANK"], torch.get_num_threads()


def test_each_process_knows_its_place_and_its_result_comes_back() -> None:
    assert run_in_processes(who, 3, 10) == [(Dist(rank, 3, rank, 3), 10 + rank, str(rank), 1) for rank in range(3)]


def total_of(values: Tensor) -> Tensor:
    total = values * (this_process().rank + 1)
    distributed.all_reduce(total)
    return total


def test_the_processes_reach_each_other() -> None:
    values = torch.tensor([1.0, -2.0])
    assert all(torch.equal(total, 3 * values) for total in run_in_processes(total_of, 2, values))


def fail_on_one() -> None:
    if this_process().rank == 1:
        raise ValueError("the reason")
    distributed.barrier()


def test_a_failure_in_one_process_fails_the_test_with_its_traceback() -> None:
    with pytest.raises(ProcessRaisedException, match=r"(?s)Process 1.*in fail_on_one.*ValueError: the reason"):
        run_in_processes(fail_on_one, 2)


def warn() -> None:
    warnings.warn("look out", UserWarning, stacklevel=1)


def test_a_warning_in_a_process_is_an_error() -> None:
    with pytest.raises(ProcessRaisedException, match="UserWarning: look out"):
        run_in_processes(warn, 1)


def wait_alone() -> None:
    if this_process().rank == 0:
        time.sleep(1000)
    distributed.barrier()


def test_processes_that_hang_are_ended() -> None:
    with pytest.raises(TimeoutError, match="wait_alone: not done after 5 seconds in 2 processes"):
        run_in_processes(wait_alone, 2, timeout=5)
    assert multiprocessing.active_children() == []
