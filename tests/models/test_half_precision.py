"""What a network computes in float32 although it runs in half precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.classifiers import CosineClassifier
from models.spectral import spectral_transform

NUM_PARTS, BATCH, DIM, CLASSES = 2, 16, 64, 30


def cosines(scale: float) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    torch.manual_seed(1)
    classifier = CosineClassifier(NUM_PARTS, DIM, CLASSES, scale)
    return lambda embeddings: classifier(embeddings).logits, [classifier.weight]


def scales() -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    def norms(embeddings: Tensor) -> Tensor:
        scale = CosineClassifier(NUM_PARTS, DIM, CLASSES, 0.0)(embeddings).scale
        assert scale is not None
        return scale

    return norms, []


def transformed(sigma: float) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    return lambda embeddings: spectral_transform(embeddings, sigma)[0], []


COMPUTATIONS: dict[str, Callable[[], tuple[Callable[[Tensor], Tensor], list[Tensor]]]] = {
    "cosines": lambda: cosines(15.0),
    "cosines times a large scale": lambda: cosines(64.0),
    "cosines times norms": lambda: cosines(0.0),
    "norms": scales,
    "spectral transform": lambda: transformed(0.1),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_under_autocast_values_and_gradients_are_those_of_float32(name: str) -> None:
    compute, weights = COMPUTATIONS[name]()
    generator = torch.Generator().manual_seed(0)
    rounded = torch.randn(NUM_PARTS, BATCH, DIM, generator=generator).bfloat16()
    plain, half = rounded.float().requires_grad_(), rounded.clone().requires_grad_()
    expected = compute(plain)
    slopes = torch.randn(expected.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(half)
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    expected_gradients = torch.autograd.grad((expected * slopes).sum(), [plain, *weights])
    gradients = torch.autograd.grad((found * slopes).sum(), [half, *weights])
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        # That of the embeddings is rounded to their own type at the end.
        error = (gradient.float() - other.to(gradient.dtype).float()).norm() / other.norm()
        assert error <= 1e-3
