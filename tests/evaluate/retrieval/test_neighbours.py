"""The nearest neighbours of every image against a stable sort of all distances."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evaluate.core.retrieval import neighbours
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.neighbours import nearest_neighbours
from tests.evaluate.k_reciprocal_reference import exact_vectors, random_features, reference_distances
from tests.processes import run_in_processes
from utils.errors import DataError


def test_neighbours_are_the_first_of_a_stable_sort_whatever_the_tiles():
    vectors = torch.tensor(exact_vectors()["euclidean"], dtype=torch.float32)
    features = vectors[torch.randint(len(vectors), (150,), generator=torch.Generator().manual_seed(9))]
    distance = reference_distances(features, "euclidean")
    for memory in (32 * 7 * 7, 32 * 45 * 45, 2**30):
        near = nearest_neighbours(features, 21, "euclidean", memory)
        assert near.order.tolist() == np.argsort(distance, axis=1, kind="stable")[:, :21].tolist()
        nearest = np.sort(distance, axis=1)[:, :21]
        np.testing.assert_allclose(near.distance.numpy(), nearest, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(near.farthest.numpy(), distance.max(axis=1), rtol=1e-6)


def test_no_tile_takes_more_memory_than_allowed(monkeypatch):
    shapes = []

    class Recorded(FeatureDistances):
        def rows(self, start, stop):
            shapes.append((stop - start, self.shape[1]))
            return super().rows(start, stop)

    monkeypatch.setattr(neighbours, "FeatureDistances", Recorded)
    nearest_neighbours(random_features(300, seed=4), 21, "cosine", memory=50 * 50 * neighbours.TILE_BYTES_PER_PAIR)
    assert max(shapes) == (50, 50)
    assert len(shapes) == 6 * 7 / 2  # nothing is computed on both sides of the diagonal


def shared_neighbours():
    """The neighbours as one of several processes finds them, and how many tiles it has computed."""
    tiles = []

    class Recorded(FeatureDistances):
        def rows(self, start, stop):
            tiles.append(self.shape)
            return super().rows(start, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "FeatureDistances", Recorded)
        memory = neighbours.TILE_BYTES_PER_PAIR * 50 * 50
        return nearest_neighbours(random_features(300, seed=4), 21, memory=memory, is_shared=True), len(tiles)


def test_several_processes_share_the_tiles_and_all_have_the_whole():
    (alone, num_tiles), *parts = (*run_in_processes(shared_neighbours, 1), *run_in_processes(shared_neighbours, 2))
    assert [tiles for _, tiles in parts] == [11, 10]
    assert num_tiles == 21
    for found, _ in parts:
        assert all(part.equal(whole) for part, whole in zip(found, alone, strict=True))


def test_an_embedding_too_long_to_compare_is_refused():
    features = torch.tensor([[1e20, 0.0], [-1e20, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match="too long for single precision"):
        nearest_neighbours(features, 2, "euclidean", is_checked=True)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: values read, masks as indices, copies to another device."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.name(), kwargs or {}
        if name.startswith("aten::index"):
            self.number += any(index is not None and index.dtype == torch.bool for index in args[1])
        else:
            copies = name == "aten::_to_copy" and kwargs.get("device") is not None
            self.number += copies or name in ("aten::_local_scalar_dense", "aten::nonzero")
        return func(*args, **kwargs)


@pytest.mark.parametrize(("metric", "per_tile"), [("cosine", 0), ("euclidean", 1)])
def test_a_gpu_is_waited_for_twice_per_tile_and_side(metric, per_tile):
    features = torch.nn.functional.normalize(random_features(300, seed=4))
    with Waits() as waits:
        nearest_neighbours(features, 21, metric, memory=neighbours.TILE_BYTES_PER_PAIR * 50 * 50, is_checked=True)
    # 21 tiles of 50 images on a side, 6 of them on the diagonal; at the end the result is checked.
    assert waits.number <= 2 * 6 * 6 + per_tile * 21 + 1
