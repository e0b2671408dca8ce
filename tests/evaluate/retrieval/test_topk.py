"""Sorting and searching the rows of a block of distances."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.retrieval import topk
from evaluate.core.retrieval.topk import (
    NO_KEY,
    distances_of,
    first_columns,
    indices_of,
    merge_smallest_,
    smallest,
    sorted_rows,
)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 1000), (0, 4)])
def test_rows_are_sorted_in_a_copy(shape: tuple[int, int]) -> None:
    distance = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    distance[:, ::3] = torch.inf
    before = distance.clone()
    assert sorted_rows(distance).equal(before.sort(dim=1).values)
    assert distance.equal(before)


@given(data=st.data(), width=st.integers(1, 12), largest=st.integers(0, 6))
def test_the_nearest_columns_are_those_of_a_stable_sort(data: st.DataObject, width: int, largest: int) -> None:
    row = st.lists(st.sampled_from([*map(float, range(largest + 1)), float("inf")]), min_size=width, max_size=width)
    distance = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    length = data.draw(st.integers(1, width))
    expected = [sorted(range(width), key=lambda column: (row[column], column))[:length] for row in distance.tolist()]
    assert first_columns(distance, length).tolist() == expected


@pytest.mark.parametrize(("pairs", "sizes"), [(1, [1] * 7), (300, [3, 3, 1]), (2**20, [7])])
def test_few_tied_rows_are_sorted_at_once(pairs: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "SORTED_PAIRS", pairs)
    sort, sorted_at_once = torch.Tensor.sort, []

    def recorded(rows: torch.Tensor, **options: Any) -> Any:
        sorted_at_once.append(len(rows))
        return sort(rows, **options)

    monkeypatch.setattr(torch.Tensor, "sort", recorded)
    distance = torch.arange(700.0).view(7, 100) // 20
    assert first_columns(distance, 30).equal(torch.arange(30).expand(7, 30))
    assert sorted_at_once == sizes


@pytest.mark.parametrize("width", [3, 4, 5, 40])
def test_smallest_cuts_ties_by_index(width: int) -> None:
    distance = torch.randint(0, 4, (50, width), generator=torch.Generator().manual_seed(width)).float()
    distance[0], distance[1, ::2] = 1.0, -0.0
    for block in (distance, distance.T.contiguous().T):
        keys = smallest(block, 4, torch.arange(100, 100 + width)).sort(dim=1).values
        expected = distance.sort(dim=1, stable=True)
        assert (keys & 0xFFFFFFFF).equal(expected.indices[:, :4] + 100)
        assert (keys >> 32).equal((expected.values[:, :4] + 0.0).view(torch.int32).long())


@pytest.mark.parametrize("values", [3, 10_000])
def test_the_smallest_of_several_blocks_are_those_of_the_whole(values: int) -> None:
    whole = torch.randint(values, (40, 90), generator=torch.Generator().manual_seed(values)).float()
    keys = torch.full((40, 7), NO_KEY)
    for first in range(0, 90, 30):
        merge_smallest_(keys, whole[:, first : first + 30], torch.arange(first, first + 30))
    expected = whole.sort(dim=1, stable=True)
    assert indices_of(keys).equal(expected.indices[:, :7])
    assert distances_of(keys).equal(expected.values[:, :7])
