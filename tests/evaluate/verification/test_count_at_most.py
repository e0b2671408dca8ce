"""Counts of numbers up to edges against plain comparisons and sorting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.verification.roc import count_at_most

finite = st.floats(-(2.0**99), 2.0**99, width=32)


@given(edges=st.sets(finite, min_size=1, max_size=8), numbers=st.lists(finite | st.just(float("inf")), max_size=20))
def test_counts_agree_with_plain_comparisons(edges, numbers):
    edges = torch.tensor(sorted(edges)).unique()
    # Numbers on and right beside the edges are where rounding would show.
    beside = [edges, edges.nextafter(torch.tensor(torch.inf)), edges.nextafter(torch.tensor(-torch.inf))]
    numbers = torch.cat([torch.tensor(numbers), *beside])
    expected = [sum(number <= edge for number in numbers.tolist()) for edge in edges.tolist()]
    assert count_at_most(numbers.clone(), edges).tolist() == expected
    if torch.cuda.is_available():
        assert count_at_most(numbers.cuda(), edges.cuda()).tolist() == expected


def test_counts_of_many_numbers_agree_with_sorting():
    rng = torch.Generator().manual_seed(0)
    numbers = torch.rand(800_000, generator=rng).square()
    edges = torch.cat([numbers[:5000], torch.rand(50, generator=rng)]).unique()
    expected = torch.searchsorted(numbers.sort().values, edges, right=True)
    assert count_at_most(numbers, edges).equal(expected)


@given(start=st.floats(-1e7, 1e7, width=32), places=st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_edges_may_be_neighbouring_floats(start, places):
    edges = [torch.tensor(start)]
    for _ in range(30):
        edges.append(edges[-1].nextafter(torch.tensor(1e9)))
    numbers = torch.stack(edges)[torch.tensor(places)]
    expected = [sum(place <= edge for place in places) for edge in range(31)]
    assert count_at_most(numbers, torch.stack(edges)).tolist() == expected
