from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from audit.labels import (
    NUM_NEIGHBOURS,
    VOTES,
    find_swaps,
    nearest_images,
    other_similarities,
    own_similarities,
    rows_of_labels,
)


def cloud(number: int, labels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    of_image = torch.randint(-1, labels, (number,), generator=generator)
    return F.normalize(torch.randn(number, 8, generator=generator)), of_image


def test_similarities_to_own_and_to_other_identities_as_by_a_plain_loop() -> None:
    features, labels = cloud(120, 12)
    near = nearest_images(features)
    own = own_similarities(features, rows_of_labels(labels))
    other, nearest = other_similarities(labels, near)
    cosine = (features @ features.T).tolist()
    for row in range(len(features)):
        same = sorted(
            (cosine[row][k] for k in range(len(features)) if k != row and labels[k] == labels[row]), reverse=True
        )
        expected = sum(same[:VOTES]) / len(same[:VOTES]) if labels[row] >= 0 and same else -1.0
        assert abs(float(own[row]) - expected) < 1e-5
        order = sorted((k for k in range(len(features)) if k != row), key=lambda k: -cosine[row][k])[:NUM_NEIGHBOURS]
        scores = {}
        for label in {int(labels[k]) for k in order} - {-1, int(labels[row])}:
            near_ones = [cosine[row][k] for k in order if labels[k] == label][:VOTES]
            near_ones += [cosine[row][order[-1]]] * (VOTES - len(near_ones))
            scores[label] = sum(near_ones) / VOTES
        best = max(scores, key=lambda label: scores[label])
        assert abs(float(other[row]) - scores[best]) < 1e-5
        assert int(nearest[row]) == best


def test_with_probes_near_images_are_those_of_the_nearest_cells() -> None:
    features, _ = cloud(400, 12)
    exact, same, some = (nearest_images(features, probes) for probes in (0, 1000, 8))
    assert all(a.equal(b) for a, b in zip(exact, same, strict=True))
    found = [len({*a} & {*b}) for a, b in zip(exact.rows.tolist(), some.rows.tolist(), strict=True)]
    assert 0.8 * NUM_NEIGHBOURS < sum(found) / len(found) < NUM_NEIGHBOURS
    cosines = (features[:, None] * features[some.rows]).sum(2)
    assert torch.allclose(some.similarities, cosines, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_an_identity_of_many_images_takes_no_more_memory_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = cloud(300, 1)
    whole = own_similarities(features, [torch.arange(300)])
    monkeypatch.setattr("audit.labels.ROWS", 10)
    with LargestTensor() as largest:
        by_block = own_similarities(features, [torch.arange(300)])
    torch.testing.assert_close(by_block, whole)
    assert largest.numel == 10 * 300


def test_the_image_itself_is_no_neighbour_even_among_equal_ones() -> None:
    features = torch.ones(NUM_NEIGHBOURS + 20, 4)
    near = nearest_images(features)
    assert near.rows.shape == (NUM_NEIGHBOURS + 20, NUM_NEIGHBOURS)
    assert not (near.rows == torch.arange(len(features))[:, None]).any()


def test_an_image_alone_in_its_identity_and_one_without_are_not_judged() -> None:
    features, labels = cloud(100, 4)
    labels[:2] = torch.tensor([4, -1])
    swaps = find_swaps(features, labels, nearest_images(features), labels >= 0, torch.Generator())
    assert swaps.probabilities[:2].tolist() == [0, 0]


def test_two_images_of_two_identities_are_no_mistake() -> None:
    features, labels = torch.eye(2), torch.tensor([0, 1])
    swaps = find_swaps(features, labels, nearest_images(features), labels >= 0, torch.Generator())
    assert swaps.probabilities.tolist() == [0, 0]
