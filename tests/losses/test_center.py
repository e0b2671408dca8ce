import math
from typing import Any

import pytest
import torch

from losses.center import CenterLoss
from losses.options import CenterLossOptions
from models.outputs import GLOBAL, PARTS, NetworkSizes, concat_parts
from tests.losses.conftest import draw_output, make_criterion

LABELS = [0, 0, 2, 1, 2, 2]
STEP = torch.tensor(0)
SIZES = NetworkSizes(4, {PARTS: (2, 3), GLOBAL: (1, 5)})


def draw(seed: int) -> torch.Tensor:
    features = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return features.requires_grad_()


@pytest.mark.parametrize("weight", [1.0, 0.0005])
def test_equals_the_formulas_step_after_step_whatever_the_weight(weight: float) -> None:
    loss = CenterLoss(weight, 0.5, 4, 2, 3).double()
    centers = [[[0.0] * 3 for _ in range(4)] for _ in range(2)]
    for step in range(3):
        features = draw(step)
        value, metrics = loss(features, torch.tensor(LABELS), STEP)
        value.backward()
        loss.remember()
        assert features.grad is not None
        distances = []
        for part, rows in enumerate(features.tolist()):
            for image, (row, label) in enumerate(zip(rows, LABELS, strict=True)):
                distances.append(math.dist(row, centers[part][label]))
                slope = [weight * 2 * (x - c) / 12 for x, c in zip(row, centers[part][label], strict=True)]
                assert features.grad[part, image].tolist() == pytest.approx(slope)
            for label in range(4):
                own = [row for row, other in zip(rows, LABELS, strict=True) if other == label]
                for axis in range(3):
                    old = centers[part][label][axis]
                    centers[part][label][axis] -= 0.5 * sum(old - row[axis] for row in own) / (1 + len(own))
        assert value.item() == pytest.approx(weight * sum(d**2 for d in distances) / 12)
        assert metrics["distance"].item() == pytest.approx(sum(distances) / 12)
        torch.testing.assert_close(loss.centers, torch.tensor(centers, dtype=torch.float64))


def test_the_gradient_is_that_of_the_values() -> None:
    start = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def value(features: torch.Tensor) -> torch.Tensor:
        loss = CenterLoss(1.0, 0.5, 4, 2, 3).double()
        loss.centers.copy_(start)
        return loss(features, torch.tensor(LABELS), STEP)[0]

    assert torch.autograd.gradcheck(value, draw(0))


def test_each_feature_has_centers_of_its_size_which_are_saved_and_not_trained() -> None:
    section = CenterLossOptions(weight=1.0, on=("global", "parts", "concat"), of="embeddings")
    criterion, output = make_criterion(center_loss=section, sizes=SIZES), draw_output(SIZES)
    losses = criterion(output, torch.tensor(LABELS)).losses
    parts, whole = output[PARTS].embeddings, output[GLOBAL].embeddings
    expected = {"global": whole, "parts": parts, "concat": concat_parts([parts])}
    for name, features in expected.items():
        assert losses[f"center_{name}"].item() == pytest.approx(features.square().sum(-1).mean().item())
    shapes = {name.split(".")[2]: tuple(centers.shape) for name, centers in criterion.state_dict().items()}
    assert shapes == {"global": (1, 4, 5), "parts": (2, 4, 3), "concat": (1, 4, 6)}
    assert list(criterion.parameters()) == []


def test_centers_need_the_sizes_of_the_network() -> None:
    with pytest.raises(ValueError, match="sizes"):
        make_criterion(center_loss=CenterLossOptions(weight=1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_computed_in_float32(dtype: Any) -> None:
    features = draw(0).detach().to(dtype)
    found, same = (CenterLoss(1.0, 0.5, 4, 2, 3) for _ in range(2))
    value, _ = found(features, torch.tensor(LABELS), STEP)
    assert value.dtype == torch.float32
    assert torch.equal(value, same(features.float(), torch.tensor(LABELS), STEP)[0])
    for loss in (found, same):
        loss.remember()
    assert torch.equal(found.centers, same.centers)


def test_a_compiled_gradient_is_that_of_the_centers_before_they_move() -> None:
    loss, plain = (CenterLoss(1.0, 0.5, 4, 2, 3).double() for _ in range(2))
    compiled = torch.compile(loss, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for step in range(3):
        gradients = []
        for module, call in ((loss, compiled), (plain, plain)):
            features = draw(step)
            call(features, torch.tensor(LABELS), STEP)[0].backward()
            module.remember()
            gradients.append(features.grad)
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(loss.centers, plain.centers)
