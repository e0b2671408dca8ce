"""Counting numbers between edges: exact however the numbers lie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.core.verification.counting import SEGMENT, EdgeCounter, counts_by_comparison


def reference(numbers, edges):
    """One comparison after the other."""
    return [sum(number <= edge for number in numbers.flatten().tolist()) for edge in edges.tolist()]


def counted(numbers, edges):
    counter = EdgeCounter(edges)
    counter.add(numbers)
    return counter.at_most().tolist()


finite = st.floats(-(2.0**99), 2.0**99, width=32)


@settings(deadline=None, max_examples=200)
@given(edges=st.sets(finite, min_size=1, max_size=8), numbers=st.lists(finite | st.just(float("inf")), max_size=20))
def test_agrees_with_plain_comparisons(edges, numbers):
    edges = torch.tensor(sorted(edges)).unique()
    # Numbers on and right beside the edges are where rounding would show.
    beside = [edges, edges.nextafter(torch.tensor(torch.inf)), edges.nextafter(torch.tensor(-torch.inf))]
    numbers = torch.cat([torch.tensor(numbers), *beside])
    assert counted(numbers, edges) == reference(numbers, edges)
    by_comparison = counts_by_comparison(numbers, edges)
    assert len(by_comparison) == len(edges) + 1
    assert by_comparison.sum() == len(numbers)
    assert by_comparison[:-1].cumsum(0).tolist() == reference(numbers, edges)


@settings(deadline=None, max_examples=100)
@given(
    start=st.floats(-1e7, 1e7, width=32),
    steps=st.lists(st.integers(1, 4), max_size=6),
    numbers=st.lists(st.integers(-3, 25), max_size=20),
)
def test_edges_may_be_as_close_as_floats_can(start, steps, numbers):
    ladder = [torch.tensor(start).nextafter(torch.tensor(-1e9))]
    for _ in range(30):
        ladder.append(ladder[-1].nextafter(torch.tensor(1e9)))
    ladder = torch.stack(ladder)
    edges = ladder[torch.tensor([1, *steps]).cumsum(0)].unique()
    numbers = torch.cat([ladder[torch.tensor(numbers, dtype=torch.int64) + 3], ladder - 1e6, ladder + 1e6])
    assert counted(numbers, edges) == reference(numbers, edges)


def test_long_blocks_agree_with_sorting():
    rng = torch.Generator().manual_seed(0)
    numbers = torch.rand(3, SEGMENT, generator=rng).square()
    edges = torch.cat([numbers[0, :5000], torch.rand(50, generator=rng)]).unique()
    expected = torch.searchsorted(numbers.flatten().sort().values, edges, right=True)
    counter = EdgeCounter(edges)
    counter.add(numbers[:1])
    counter.add(numbers[1:])
    assert counter.at_most().equal(expected)


def test_numbers_added_stay_as_they_were():
    numbers = torch.tensor([3.0, 1.0, 2.0])
    assert counted(numbers, torch.tensor([1.0, 2.5])) == [1, 2]
    assert numbers.tolist() == [3.0, 1.0, 2.0]


def test_nothing_added_counts_nothing():
    assert EdgeCounter(torch.tensor([0.0, 1.0])).at_most().tolist() == [0, 0]
    assert counted(torch.zeros(0, 4), torch.tensor([0.0])) == [0]


@pytest.mark.parametrize("edges", [[], [1.0, 1.0], [2.0, 1.0], [0.0, torch.inf], [torch.nan], [[1.0]]])
def test_edges_out_of_order_are_refused(edges):
    with pytest.raises(ValueError, match="edges: finite numbers"):
        EdgeCounter(torch.tensor(edges))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_the_same():
    rng = torch.Generator().manual_seed(1)
    numbers, edges = torch.rand(1000, 700, generator=rng), torch.rand(3000, generator=rng).unique()
    counter = EdgeCounter(edges.cuda())
    counter.add(numbers.cuda())
    assert counter.at_most().cpu().tolist() == counted(numbers, edges)
