import math

import pytest
import torch

from models.spectral import spectral_transform


def reference(embeddings: list[list[float]], sigma: float) -> tuple[list[list[float]], float]:
    """One part, from the definition: cosines, row-wise softmax, weighted mean."""
    norms = [math.sqrt(sum(value**2 for value in row)) for row in embeddings]
    transformed, diagonal = [], []
    for i, left in enumerate(embeddings):
        weights = []
        for j, right in enumerate(embeddings):
            cosine = sum(a * b for a, b in zip(left, right, strict=True)) / (norms[i] * norms[j])
            weights.append(math.exp(cosine / sigma))
        total = sum(weights)
        weights = [weight / total for weight in weights]
        diagonal.append(weights[i])
        transformed.append(
            [sum(w * row[d] for w, row in zip(weights, embeddings, strict=True)) for d in range(len(left))]
        )
    return transformed, sum(diagonal) / len(diagonal)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 5.0])
def test_it_is_the_mean_of_the_batch_weighted_by_similarity(sigma: float) -> None:
    embeddings = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)).double()
    transformed, share = spectral_transform(embeddings, sigma)
    expected = [reference(part.tolist(), sigma) for part in embeddings]
    torch.testing.assert_close(transformed, torch.tensor([rows for rows, _ in expected]).double(), rtol=1e-5, atol=1e-6)
    assert share.item() == pytest.approx(sum(diagonal for _, diagonal in expected) / 2, rel=1e-5)


def test_identical_embeddings_stay_and_weigh_the_same() -> None:
    embeddings = torch.full((1, 5, 3), 2.0)
    transformed, share = spectral_transform(embeddings, 0.1)
    torch.testing.assert_close(transformed, embeddings)
    assert share.item() == pytest.approx(1 / 5)


def test_embeddings_of_one_direction_become_their_mean() -> None:
    embeddings = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]]])
    torch.testing.assert_close(spectral_transform(embeddings, 0.3)[0], torch.tensor([[[4.0, 0.0]] * 3]))


def test_towards_zero_each_keeps_its_own_and_towards_infinity_all_become_the_mean() -> None:
    embeddings = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    transformed, share = spectral_transform(embeddings, 1e-3)
    torch.testing.assert_close(transformed, embeddings)
    assert share.item() == pytest.approx(1.0)
    transformed, share = spectral_transform(embeddings, 1e4)
    torch.testing.assert_close(transformed, embeddings.mean(1, keepdim=True).expand(-1, 6, -1), atol=1e-3, rtol=0)
    assert share.item() == pytest.approx(1 / 6, rel=1e-3)


def test_each_part_has_a_graph_of_its_own() -> None:
    embeddings = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    transformed, _ = spectral_transform(embeddings, 0.3)
    for part in range(3):
        torch.testing.assert_close(transformed[part], spectral_transform(embeddings[part][None], 0.3)[0][0])
    transformed[1].sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum((1, 2)).gt(0).tolist() == [False, True, False]


def test_the_gradient_is_that_of_finite_differences() -> None:
    embeddings = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()

    def in_double(x: torch.Tensor) -> torch.Tensor:
        return spectral_transform(x, 0.3)[0]

    assert torch.autograd.gradcheck(in_double, embeddings)
    assert not spectral_transform(embeddings, 0.3)[1].requires_grad
