import math

import pytest
import torch

from utils.distances import euclidean, squared_euclidean


def test_equals_the_definition_and_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    distances = euclidean(left, right)
    assert distances.shape == (2, 3, 4)
    for batch in range(2):
        for i in range(3):
            for j in range(4):
                expected = math.dist(left[batch, i].tolist(), right[batch, j].tolist())
                assert distances[batch, i, j].item() == pytest.approx(expected, rel=1e-4)


def test_is_never_negative_nor_without_gradient() -> None:
    point = torch.full((3, 4), 1000.1, requires_grad=True)
    assert (squared_euclidean(point, point) >= 0).all()
    euclidean(point, point).sum().backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()
