"""How many of very many numbers are at most as large as each of a few given ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from utils.cpus import num_own_cpus

NUM_CELLS = 2**18
"""Cells between the smallest and the largest edge: few enough for a processor's cache to hold their counts."""
SEGMENT = 2**18
"""Numbers worked on at once: they and what is computed of them stay in the cache."""


class EdgeCounter:
    """Counts, exactly, how many of all numbers added are at most as large as each edge.

    On the CPU the range of the edges is cut into equal cells. A number is counted in its cell, which costs one
    multiplication; only numbers in cells that hold an edge are compared with edges. Numbers and edges go through the
    same arithmetic, and none of its steps ever reverses an order, so that rounding cannot put a number on the wrong
    side. A GPU compares every number.

    Args:
        edges: (E,) float32, finite, ascending, no two equal, at least one.

    Raises:
        ValueError: edges that are not so.
    """

    def __init__(self, edges: Tensor) -> None:
        if edges.ndim != 1 or not len(edges) or not edges.isfinite().all() or (edges[1:] <= edges[:-1]).any():
            raise ValueError("edges: finite numbers (E,) in ascending order expected, no two equal, at least one")
        self._edges = edges
        # One bin more than edges: what is larger than all of them.
        self._by_edge = torch.zeros(len(edges) + 1, dtype=torch.int64, device=edges.device)
        if edges.device.type != "cpu":
            return
        self._edge_values = edges.numpy()
        self._low = self._edge_values[0]
        span = max(float(self._edge_values[-1]) - float(self._low), 1e-30)
        # Numbers outside the range are moved to two cells' width beside it, no farther, so that nothing overflows. The
        # cells to spare are for this and for rounding.
        self._scale = np.float32((NUM_CELLS - 16) / span)
        self._outside = np.float32(2 * span / (NUM_CELLS - 16))
        self._cell_of_edge = self._cells(self._edge_values)
        self._holds_edge = np.zeros(NUM_CELLS, dtype=bool)
        self._holds_edge[self._cell_of_edge] = True
        self._by_cell = torch.zeros(NUM_CELLS, dtype=torch.int64)

    def add(self, numbers: Tensor) -> None:
        """Count numbers of any contiguous shape, float32, on the device of the edges; infinity is allowed, NaN not."""
        if numbers.device.type == "cpu":
            self._add_on_cpu(numbers.flatten().numpy())
        else:
            self._by_edge += counts_by_comparison(numbers.flatten(), self._edges)

    def at_most(self) -> Tensor:
        """(E,) int64: of all numbers added, how many are at most as large as each edge."""
        at_most = self._by_edge[:-1].cumsum(0)
        if self._edges.device.type == "cpu":
            # Numbers in a cell that holds an edge have been compared with it; the others of lower cells are smaller.
            smaller = self._by_cell.masked_fill(torch.from_numpy(self._holds_edge), 0).cumsum(0)
            at_most += smaller[torch.from_numpy(self._cell_of_edge)]
        return at_most

    def _add_on_cpu(self, numbers: np.ndarray) -> None:
        pieces = np.array_split(numbers, num_own_cpus())
        with ThreadPoolExecutor(num_own_cpus()) as pool:
            for by_cell, by_edge in pool.map(self._count, pieces):
                self._by_cell += by_cell
                self._by_edge += torch.from_numpy(by_edge)

    def _count(self, numbers: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Numbers in each cell; and, of those in a cell that holds an edge, by the first edge that is not smaller."""
        by_cell = torch.zeros(NUM_CELLS, dtype=torch.int64)
        by_edge = np.zeros(len(self._edge_values) + 1, dtype=np.int64)
        for start in range(0, len(numbers), SEGMENT):
            segment = numbers[start : start + SEGMENT]
            cells = self._cells(segment)
            # Torch's bincount, unlike NumPy's, lets other threads run all the while.
            by_cell += torch.bincount(torch.from_numpy(cells), minlength=NUM_CELLS)
            near_edge = segment[self._holds_edge[cells]]
            near_edge.sort()  # neighbours are then found along neighbouring paths: several times faster
            np.add.at(by_edge, np.searchsorted(self._edge_values, near_edge), 1)
        return by_cell, by_edge

    def _cells(self, numbers: np.ndarray) -> np.ndarray:
        """The cell of each number, int32 in 0..NUM_CELLS - 1."""
        low, high = self._low - self._outside, self._edge_values[-1] + self._outside
        places = np.clip(numbers, low, high)
        places -= low
        places *= self._scale
        return places.astype(np.int32)


def counts_by_comparison(numbers: Tensor, edges: Tensor) -> Tensor:
    """(E + 1,) int64: numbers (N,) by the first edge that is not smaller than they are; the last: larger than all."""
    return torch.bincount(torch.searchsorted(edges, numbers, out_int32=True), minlength=len(edges) + 1)
