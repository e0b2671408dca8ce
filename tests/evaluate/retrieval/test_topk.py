"""Sorting and searching the rows of a block of distances."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.retrieval.topk import first_columns, sort_rows_


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 1000), (0, 4)])
def test_rows_are_sorted_in_place(shape: tuple[int, int]) -> None:
    distance = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    distance[:, ::3] = torch.inf
    expected = distance.sort(dim=1).values
    assert sort_rows_(distance) is distance
    assert distance.equal(expected)


@given(data=st.data(), width=st.integers(1, 12), largest=st.integers(0, 6))
def test_the_nearest_columns_are_those_of_a_stable_sort(data: st.DataObject, width: int, largest: int) -> None:
    row = st.lists(st.sampled_from([*map(float, range(largest + 1)), float("inf")]), min_size=width, max_size=width)
    distance = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    length = data.draw(st.integers(1, width))
    expected = [sorted(range(width), key=lambda column: (row[column], column))[:length] for row in distance.tolist()]
    assert first_columns(distance, length).tolist() == expected
