"""Operations on a block of distances (R, G): sort its rows, find the nearest columns of each."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from utils.process import num_own_cpus

SORTED_PAIRS = 2**20
"""Distances sorted with their columns at once, 16 bytes each and on a GPU 48; at least one row."""
NO_KEY = 2**63 - 1
"""Behind every key of `smallest`."""


def sorted_rows(distance: Tensor) -> Tensor:
    """A copy of a contiguous (R, G) with each row in ascending order."""
    if distance.device.type != "cpu":
        return distance.sort(dim=1).values
    distance = distance.clone()
    # NumPy sorts values with vector instructions and releases the GIL: half the time of torch's sort, which always
    # returns the order too.
    with ThreadPoolExecutor(num_own_cpus()) as pool:
        pieces = np.array_split(distance.numpy(), num_own_cpus())
        list(pool.map(lambda piece: piece.sort(axis=1), pieces))
    return distance


def first_columns(distance: Tensor, length: int) -> Tensor:
    """The nearest columns of each row, nearest first, equal distances by column.

    Args:
        distance: (R, G), no NaN.
        length: L, 1..G.

    Returns:
        (R, L) int64.
    """
    num_columns = distance.shape[1]
    # One more than asked for shows where the last distance occurs again behind the cut: topk picks any of these.
    values, columns = distance.topk(min(length + 1, num_columns), dim=1, largest=False, sorted=True)
    if length < num_columns:
        tied = (values[:, length - 1] == values[:, length]).nonzero().flatten()
        for rows in tied.split(max(1, SORTED_PAIRS // num_columns)):
            columns[rows] = distance[rows].sort(dim=1, stable=True).indices[:, : length + 1]
        values = distance.gather(1, columns)
    values, columns = values[:, :length], columns[:, :length]
    # Two stable sorts: by column, then by distance.
    by_column = columns.argsort(dim=1)
    values, columns = values.gather(1, by_column), columns.gather(1, by_column)
    return columns.gather(1, values.argsort(dim=1, stable=True))


def smallest(distance: Tensor, count: int, index: Tensor) -> Tensor:
    """The `count` nearest images of each row as keys that order like (distance, index).

    Of distances (R, C) float32, nowhere negative, to images of these indices, (C,) int64 in ascending order:
    (R, min(count, C)) int64 keys, the bits of the distance above 32 bits of index.
    """
    if count >= distance.shape[1]:
        return _keys(distance, index)
    value, column = distance.topk(count + 1, largest=False)
    keys = _keys(value[:, :count], index[column[:, :count]])
    # Where the first one left out is as near as the last one taken, topk has chosen between them at random.
    tied = value[:, count - 1] == value[:, count]
    if tied.any():
        keys[tied] = _keys(distance[tied], index).topk(count, largest=False).values
    return keys


def merge_smallest_(keys: Tensor, distance: Tensor, index: Tensor) -> None:
    """Replace keys by smaller ones of a block, in which most rows have none once many blocks have been seen.

    Args:
        keys: (R, K) int64 of `smallest`, or `NO_KEY`, in ascending order; changed in place.
        distance: (R, C) float32, nowhere negative.
        index: (C,) int64, of the columns, in ascending order.
    """
    is_near_enough = _keys(distance.amin(dim=1), index[0]) <= keys[:, -1]
    rows = is_near_enough.nonzero().flatten()
    found = smallest(distance.contiguous()[rows], keys.shape[1], index)
    keys[rows] = torch.cat((keys[rows], found), dim=1).topk(keys.shape[1], largest=False).values


def distances_of(keys: Tensor) -> Tensor:
    """The distances, float32, of keys from `smallest`."""
    return (keys >> 32).int().view(torch.float32)


def indices_of(keys: Tensor) -> Tensor:
    """The indices, int64, of keys from `smallest`."""
    return keys & (2**32 - 1)


def _keys(distance: Tensor, index: Tensor) -> Tensor:
    """Floats that are not negative order like their bits; + 0.0 turns -0.0, whose bits differ, into 0.0."""
    return ((distance + 0.0).view(torch.int32).long() << 32) | index
