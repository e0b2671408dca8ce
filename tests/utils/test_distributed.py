from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store

from tests.processes import run_in_processes
from utils.collectives import gathered, stacked
from utils.distributed import (
    Dist,
    broadcast_from_rank0,
    fail_together,
    fresh_part,
    gather_objects,
    gather_rows,
    init_process_group,
    mean_over_processes,
    this_process,
    wait_for_all,
)
from utils.errors import UserError
from utils.process import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE, is_launched, launched_as


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 2, 10, 21])
def test_the_shares_of_all_processes_cover_everything_in_order(number: int, world_size: int) -> None:
    things = list(range(number))
    shares = [things[Dist(rank, world_size).share(number)] for rank in range(world_size)]
    assert [thing for share in shares for thing in share] == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_process_group_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("RANK", "3")
    assert this_process() == Dist(0, 1, 0, 1)
    values = torch.ones(2)
    assert gather_objects("a") == ["a"]
    assert broadcast_from_rank0("a") == "a"
    assert mean_over_processes(values) is values
    assert gather_rows(values) is values
    assert gathered(values, 0) is values
    assert torch.equal(stacked(values), values[None])
    wait_for_all()


def test_torchrun_sets_all_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE):
        monkeypatch.delenv(name, raising=False)
    assert launched_as() == (0, 1)
    for name, value in ((RANK, 5), (WORLD_SIZE, 8), (LOCAL_RANK, 1), (LOCAL_WORLD_SIZE, 4)):
        assert not is_launched()
        monkeypatch.setenv(name, str(value))
    assert is_launched()
    assert launched_as() == (1, 4)


def test_without_torchrun_there_is_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANK, raising=False)
    with init_process_group(torch.device("cpu")) as dist:
        assert dist == Dist()
        assert not distributed.is_initialized()


WORLD = 3
NUMBERS = ((3, 1, 2), (0, 2, 1), (0, 0, 0))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
WHOLE = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FAILURES = {"none": (), "one": (1,), "all": (0, 1, 2)}


def rows_of(rank: int, number: int, dtype: torch.dtype) -> Tensor:
    """Different rows (number, 2, 3) in every rank, not contiguous in memory."""
    rows = (torch.arange(6 * number).view(number, 2, 3) * 7 + 50 * rank).remainder(97).to(dtype)
    return rows.transpose(0, 2).contiguous().transpose(0, 2)


def loss_of(rows: Tensor) -> Tensor:
    """A loss of all pairs of rows: (N, D) -> scalar."""
    return (rows @ rows.T).square().mean() + rows.tanh().sum()


def failure(ranks: tuple[int, ...]) -> str:
    """The error that this process raises if some ranks fail together."""
    rank = this_process().rank
    try:
        with fail_together():
            if rank in ranks:
                raise UserError("disk full")
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def exchange() -> dict[str, Any]:
    """What one process gets from the others, by function."""
    rank = this_process().rank
    wait_for_all()
    values, gathered_rows, gradients = torch.tensor([1.0, -3.0]) * (rank + 1), [], []
    mean = mean_over_processes(values)
    for dim in (0, 1):
        own = WHOLE.chunk(WORLD, dim)[rank].clone().requires_grad_()
        gathered_rows.append(gathered(own, dim))
        (gradient,) = torch.autograd.grad(loss_of(gathered_rows[-1]), own)
        # Each row is in one process only, so that its gradient in the others is zero.
        gradients.append(gradient / WORLD)
    return {
        "place": (this_process(), launched_as()),
        "objects": (gather_objects({"rank": rank}), broadcast_from_rank0(f"from {rank}")),
        "mean": (mean.tolist(), values.tolist()),
        "rows": {(n, dtype): gather_rows(rows_of(rank, n[rank], dtype)) for n in NUMBERS for dtype in DTYPES},
        "gathered": [rows.detach() for rows in gathered_rows],
        "gradients": gradients,
        "stacked": {dtype: stacked(rows_of(rank, 3, dtype)) for dtype in DTYPES},
        "failures": {name: failure(ranks) for name, ranks in FAILURES.items()},
    }


@pytest.fixture(scope="module")
def received() -> list[dict[str, Any]]:
    return run_in_processes(exchange, WORLD)


def test_each_process_knows_its_rank_and_gets_objects_in_rank_order(received: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(received):
        assert each["place"] == (Dist(rank, WORLD, rank, WORLD), (rank, WORLD))
        assert each["objects"] == ([{"rank": other} for other in range(WORLD)], "from 0")


def test_the_mean_over_processes_leaves_the_argument_as_it_is(received: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(received):
        assert each["mean"] == ([2.0, -6.0], [1.0 * (rank + 1), -3.0 * (rank + 1)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_gathered_and_stacked_in_rank_order(received: list[dict[str, Any]], dtype: torch.dtype) -> None:
    for each in received:
        for numbers in NUMBERS:
            found = each["rows"][numbers, dtype]
            expected = torch.cat([rows_of(rank, number, dtype) for rank, number in enumerate(numbers)])
            assert found.dtype == dtype
            assert torch.equal(found, expected)
        assert torch.equal(each["stacked"][dtype], torch.stack([rows_of(rank, 3, dtype) for rank in range(WORLD)]))


@pytest.mark.parametrize("dim", [0, 1])
def test_gathered_rows_have_the_gradient_of_one_process(received: list[dict[str, Any]], dim: int) -> None:
    whole = WHOLE.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(whole), whole)
    for rank, each in enumerate(received):
        assert torch.equal(each["gathered"][dim], WHOLE)
        torch.testing.assert_close(each["gradients"][dim], expected.chunk(WORLD, dim)[rank], rtol=0, atol=1e-12)


def test_processes_fail_together_and_rank_zero_reports(received: list[dict[str, Any]]) -> None:
    first, *others = [each["failures"] for each in received]
    assert first == {"none": "", "one": "UserError: process 1 of 3: disk full", "all": "UserError: disk full"}
    silent = "ReportedByOtherRankError: "
    assert others == [{"none": "", "one": silent, "all": silent}] * 2


def meet(store: Store, world_size: int) -> list[str]:
    """The values that processes exchange through their part of the store."""

    def join(rank: int) -> str:
        part = fresh_part(store, rank, world_size)
        part.set(f"from {rank}", f"hello {rank}")
        return "".join(part.get(f"from {other}").decode()[-1] for other in range(world_size))

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(join, range(world_size)))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_restarted_processes_do_not_meet_dead_ones(world_size: int) -> None:
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    # One asked and died before it was answered, another before it had asked.
    store.set(f"asked by {store.add('number asked', 1)}", "dead")
    store.add("number asked", 1)
    for _ in range(3):
        assert meet(store, world_size) == ["".join(map(str, range(world_size)))] * world_size
