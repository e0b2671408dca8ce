from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.processes import run_in_processes
from utils.collectives import gathered, stacked
from utils.distributed import this_process

WORLD = 3
WHOLE = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DTYPES = (torch.int64, torch.float16, torch.bfloat16, torch.float64)


def loss_of(rows: Tensor) -> Tensor:
    """A loss in which every row meets every other: (N, D) -> scalar."""
    return (rows @ rows.T).square().mean() + rows.tanh().sum()


def numbers_of(rank: int, dtype: torch.dtype) -> Tensor:
    """(3, 2), whose rows do not lie one after the other in memory."""
    return (torch.arange(6).view(2, 3) + 10 * rank).to(dtype).T


class Seen(NamedTuple):
    """What one process had of all."""

    rows: list[Tensor]
    """Gathered along the first and the second dimension."""
    gradients: list[Tensor]
    """Of this process's own part of them, in the mean over the processes."""
    labels: Tensor
    stacked: list[Tensor]
    """For each type."""


def collect() -> Seen:
    dist = this_process()
    rows, gradients = [], []
    for dim in (0, 1):
        own = WHOLE.chunk(WORLD, dim)[dist.rank].clone().requires_grad_()
        rows.append(gathered(own, dim))
        (gradient,) = torch.autograd.grad(loss_of(rows[-1]), own)
        # Each row is in one process only, so that of all gradients the others' are zero.
        gradients.append(gradient / WORLD)
    labels = gathered(torch.arange(2) + 2 * dist.rank, 0)
    kinds = [stacked(numbers_of(dist.rank, dtype).requires_grad_(dtype.is_floating_point)) for dtype in DTYPES]
    return Seen([each.detach() for each in rows], gradients, labels, kinds)


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    return run_in_processes(collect, WORLD)


@pytest.mark.parametrize("dim", [0, 1])
def test_rows_of_all_processes_have_the_gradient_that_one_process_has(seen: list[Seen], dim: int) -> None:
    whole = WHOLE.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(whole), whole)
    for rank, each in enumerate(seen):
        assert torch.equal(each.rows[dim], WHOLE)
        torch.testing.assert_close(each.gradients[dim], expected.chunk(WORLD, dim)[rank], rtol=0, atol=1e-12)


def test_labels_are_gathered_in_the_order_of_the_ranks(seen: list[Seen]) -> None:
    assert all(each.labels.tolist() == [0, 1, 2, 3, 4, 5] for each in seen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stacked_tensors_are_in_the_order_of_the_ranks(seen: list[Seen], dtype: torch.dtype) -> None:
    expected = torch.stack([numbers_of(rank, dtype) for rank in range(WORLD)])
    for each in seen:
        found = each.stacked[DTYPES.index(dtype)]
        assert found.dtype == dtype
        assert torch.equal(found, expected)
        assert not found.requires_grad


def test_one_process_has_all_rows_already() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert gathered(rows, 1) is rows
    assert torch.equal(stacked(rows), torch.ones(1, 2, 3))
