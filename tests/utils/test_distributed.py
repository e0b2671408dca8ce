from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store

from tests.processes import run_in_processes
from utils.distributed import (
    Dist,
    broadcast_from_rank0,
    fresh_part,
    gather_objects,
    gather_rows,
    init_process_group,
    mean_over_processes,
    this_process,
    wait_for_all,
)
from utils.process import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE, is_launched, launched_as


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 2, 10, 21])
def test_the_shares_of_all_processes_are_the_whole_in_order_and_alike_in_size(number: int, world_size: int) -> None:
    things = list(range(number))
    shares = [things[Dist(rank, world_size).share(number)] for rank in range(world_size)]
    assert [thing for share in shares for thing in share] == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_the_first_process_is_rank_zero() -> None:
    assert [Dist(rank, 3).is_rank_zero for rank in range(3)] == [True, False, False]


def test_without_a_process_group_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("RANK", "3")
    assert this_process() == Dist(0, 1, 0, 1)
    values = torch.ones(2)
    assert gather_objects("a") == ["a"]
    assert broadcast_from_rank0("a") == "a"
    assert mean_over_processes(values) is values
    assert gather_rows(values) is values
    wait_for_all()


def test_torchrun_is_known_by_all_of_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE):
        monkeypatch.delenv(name, raising=False)
    assert launched_as() == (0, 1)
    for name, value in ((RANK, 5), (WORLD_SIZE, 8), (LOCAL_RANK, 1), (LOCAL_WORLD_SIZE, 4)):
        assert not is_launched()
        monkeypatch.setenv(name, str(value))
    assert is_launched()
    assert launched_as() == (1, 4)


def test_without_torchrun_there_is_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANK, raising=False)
    with init_process_group(torch.device("cpu")) as dist:
        assert dist == Dist()
        assert not distributed.is_initialized()


WORLD = 3
NUMBERS = ((3, 1, 2), (0, 2, 1), (0, 0, 0))
DTYPES = (torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool)


def rows_of(rank: int, number: int, dtype: torch.dtype) -> Tensor:
    """Rows (number, 2, 3) in which neither rows nor ranks are alike."""
    return (torch.arange(6 * number).view(number, 2, 3) * 7 + 50 * rank).remainder(97).to(dtype)


class Received(NamedTuple):
    """What one process received from the others."""

    place: Dist
    launched: tuple[int, int]
    objects: list[dict[str, int]]
    of_rank_zero: str
    mean: Tensor
    values: Tensor
    """What the mean was asked of, afterwards."""
    rows: dict[tuple[tuple[int, ...], torch.dtype], Tensor]
    """By the numbers of rows and their type."""


def exchange() -> Received:
    rank = this_process().rank
    wait_for_all()
    values = torch.tensor([1.0, -3.0]) * (rank + 1)
    rows = {}
    for numbers in NUMBERS:
        for dtype in DTYPES:
            # Transposed twice, the rows do not lie one after the other in memory.
            scattered = rows_of(rank, numbers[rank], dtype).transpose(0, 2).contiguous().transpose(0, 2)
            rows[numbers, dtype] = gather_rows(scattered)
    mean = mean_over_processes(values)
    first = broadcast_from_rank0(f"from {rank}")
    return Received(this_process(), launched_as(), gather_objects({"rank": rank}), first, mean, values, rows)


@pytest.fixture(scope="module")
def received() -> list[Received]:
    return run_in_processes(exchange, WORLD)


def test_each_process_knows_its_place(received: list[Received]) -> None:
    assert [each.place for each in received] == [Dist(rank, WORLD, rank, WORLD) for rank in range(WORLD)]
    assert [each.launched for each in received] == [(rank, WORLD) for rank in range(WORLD)]


def test_objects_of_all_processes_come_in_the_order_of_the_ranks(received: list[Received]) -> None:
    assert [each.objects for each in received] == [[{"rank": rank} for rank in range(WORLD)]] * WORLD
    assert [each.of_rank_zero for each in received] == ["from 0"] * WORLD


def test_the_mean_over_processes_leaves_the_argument_as_it_is(received: list[Received]) -> None:
    for rank, each in enumerate(received):
        assert each.mean.tolist() == [2.0, -6.0]
        assert each.values.tolist() == [1.0 * (rank + 1), -3.0 * (rank + 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_rows_may_differ_in_number(received: list[Received], numbers: tuple[int, ...], dtype: torch.dtype) -> None:
    expected = torch.cat([rows_of(rank, number, dtype) for rank, number in enumerate(numbers)])
    for each in received:
        assert each.rows[numbers, dtype].dtype == dtype
        assert torch.equal(each.rows[numbers, dtype], expected)


def meet(store: Store, world_size: int) -> list[str]:
    """What each of several processes leaves in the part of the store that they find together."""

    def join(rank: int) -> str:
        part = fresh_part(store, rank, world_size)
        part.set(f"from {rank}", f"hello {rank}")
        return "".join(part.get(f"from {other}").decode()[-1] for other in range(world_size))

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(join, range(world_size)))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_that_start_again_do_not_meet_the_dead(world_size: int) -> None:
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    # One asked and died before it was answered, another before it had asked.
    store.set(f"asked by {store.add('number asked', 1)}", "dead")
    store.add("number asked", 1)
    for _ in range(3):
        assert meet(store, world_size) == ["".join(map(str, range(world_size)))] * world_size
