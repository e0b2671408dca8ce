"""CircleSoftmax, ArcFace, both definitions of label smoothing and the weights of branches."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor
from torch.nn import functional as F

from losses.arcface import arcface_logits
from losses.circle_softmax import circle_logits
from losses.generated import GeneratedWeights
from losses.loss import GeneratedOutput
from losses.softmax import ApplyMargin, MarginSchedule, SoftmaxLoss, subtract_margin
from models.outputs import GLOBAL, PARTS, ClassScores, NetworkSizes
from tests.losses.conftest import draw_output, make_criterion

LABELS = [0, 6, 3, 3, 1]
SCALE = 64.0


def circle(cosine: float, fixed: float, margin: float, is_true: bool) -> float:
    """Of a scale of 1; `fixed` is the cosine in the factor without gradient."""
    if is_true:
        return max(0.0, 1 + margin - fixed) * (cosine - (1 - margin))
    return max(0.0, fixed + margin) * (cosine - margin)


def arcface(cosine: float, _fixed: float, margin: float, is_true: bool) -> float:
    if not is_true:
        return cosine
    angle = math.acos(cosine)
    return math.cos(angle + margin) if angle + margin <= math.pi else cosine - margin * math.sin(margin)


FORMS = pytest.mark.parametrize(("apply", "formula"), [(circle_logits, circle), (arcface_logits, arcface)])


def draw_scores(parts: int = 2) -> tuple[Tensor, ClassScores]:
    """Cosines between -1 and 1, float64, as leaves."""
    generator = torch.Generator().manual_seed(parts)
    cosines = (1.98 * torch.rand(parts, 5, 7, generator=generator, dtype=torch.float64) - 0.99).requires_grad_()
    return cosines, ClassScores(SCALE * cosines, torch.full((parts, 5), SCALE, dtype=torch.float64))


@FORMS
@pytest.mark.parametrize("margin", [0.1, 0.35, 0.5])
def test_logits_and_gradients_equal_the_formula(
    apply: ApplyMargin, formula: Callable[..., float], margin: float
) -> None:
    cosines, scores = draw_scores()
    logits = apply(scores, torch.tensor(LABELS), margin)
    (gradient,) = torch.autograd.grad(logits.sum(), cosines)
    assert logits.shape == (2, 5, 7)
    of_one = [label == other for label in LABELS for other in range(7)]
    values = zip(cosines.flatten().tolist(), logits.flatten().tolist(), gradient.flatten().tolist(), strict=True)
    for (cosine, logit, slope), is_true in zip(values, of_one * 2, strict=True):
        assert logit == pytest.approx(SCALE * formula(cosine, cosine, margin, is_true), rel=1e-9, abs=1e-9)
        rise = formula(cosine + 1e-6, cosine, margin, is_true) - formula(cosine - 1e-6, cosine, margin, is_true)
        assert slope == pytest.approx(SCALE * rise / 2e-6, rel=1e-4, abs=1e-5)


@FORMS
def test_a_margin_may_be_scheduled(apply: ApplyMargin, formula: Callable[..., float]) -> None:
    _, scores = draw_scores()
    labels, loss = torch.tensor(LABELS), SoftmaxLoss(1.0, MarginSchedule((0.1, 0.3), 2), apply_margin=apply)
    for step, margin in ((0, 0.1), (5, 0.3)):
        expected = SoftmaxLoss(1.0, margin, apply_margin=apply)(scores, labels, torch.tensor(0))
        torch.testing.assert_close(loss(scores, labels, torch.tensor(step)), expected, rtol=1e-6, atol=0)


@FORMS
def test_a_linear_classifier_has_no_cosines(apply: ApplyMargin, formula: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="cosine classifier"):
        apply(ClassScores(torch.zeros(1, 2, 3), None), torch.tensor([0, 1]), 0.3)


@pytest.mark.parametrize("apply", [subtract_margin, circle_logits, arcface_logits])
@pytest.mark.parametrize("cosine", [-1.0, 0.0, 1.0])
def test_gradients_are_finite_at_every_cosine(apply: ApplyMargin, cosine: float) -> None:
    logits = torch.full((1, 1, 3), SCALE * cosine, requires_grad=True)
    losses = SoftmaxLoss(1.0, 0.35, apply_margin=apply)(
        ClassScores(logits, torch.full((1, 1), SCALE)), torch.tensor([1]), torch.tensor(0)
    )
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("apply", [subtract_margin, arcface_logits])
@pytest.mark.parametrize(("focal_gamma", "smoothing"), [(0.0, 0.1), (2.0, 0.0)])
def test_the_gradient_is_that_of_the_values(apply: ApplyMargin, focal_gamma: float, smoothing: float) -> None:
    cosines, scores = draw_scores()
    loss = SoftmaxLoss(0.5, 0.35, focal_gamma, smoothing, "others", apply)

    def losses(cosines: Tensor) -> Tensor:
        return loss(ClassScores(4 * cosines, scores.scale), torch.tensor(LABELS), torch.tensor(0))

    assert torch.autograd.gradcheck(losses, cosines)


@pytest.mark.parametrize(
    ("apply", "theirs", "margin"),
    [(subtract_margin, CosFaceLoss, 0.35), (arcface_logits, ArcFaceLoss, math.degrees(0.5))],
)
def test_equals_pytorch_metric_learning(apply: ApplyMargin, theirs: Any, margin: float) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    other = theirs(7, 6, margin=margin, scale=SCALE).double()
    # One image is opposite to its class, where ArcFace goes on as a line.
    with torch.no_grad():
        embeddings[0] = -other.W[:, LABELS[0]]
    cosines = F.normalize(embeddings, dim=1) @ F.normalize(other.W.detach(), dim=0)
    scores = ClassScores(SCALE * cosines[None], torch.full((1, 5), SCALE, dtype=torch.float64))
    own = margin if apply is subtract_margin else math.radians(margin)
    (mine,) = SoftmaxLoss(1.0, own, apply_margin=apply)(scores, torch.tensor(LABELS), torch.tensor(0))
    expected = other(embeddings, torch.tensor(LABELS))
    assert mine.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, embeddings, retain_graph=True)[0][1:] for loss in (mine, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("over", ["all", "others"])
def test_label_smoothing_has_two_definitions(over: Any, num_classes: int) -> None:
    logits = 3 * torch.randn(1, 1, num_classes, generator=torch.Generator().manual_seed(0))
    share = 0.1 / num_classes if over == "all" else 0.1 / (num_classes - 1)
    expected = 0.0
    for index, log_probability in enumerate(logits[0, 0].log_softmax(0).tolist()):
        target = 0.9 * (index == 1) + (share if over == "all" or index != 1 else 0.0)
        expected -= target * log_probability
    loss = SoftmaxLoss(1.0, label_smoothing=0.1, smooth_over=over)
    assert loss(ClassScores(logits, None), torch.tensor([1]), torch.tensor(0)).item() == pytest.approx(expected, 1e-5)


def test_a_single_class_has_no_others_to_smooth_over() -> None:
    loss = SoftmaxLoss(1.0, label_smoothing=0.1, smooth_over="others")
    assert loss(ClassScores(torch.ones(1, 2, 1), None), torch.tensor([0, 0]), torch.tensor(0)).tolist() == [0.0]


@pytest.mark.parametrize("name", ["softmax", "circle", "arcface"])
@pytest.mark.parametrize("key", ["generated", "outliers"])
def test_each_branch_has_a_weight_for_real_and_generated_images(name: Any, key: str) -> None:
    weights = {PARTS: 0.125, GLOBAL: 3.0}
    sizes, labels = NetworkSizes(3, {PARTS: (2, 4), GLOBAL: (1, 4)}), torch.tensor([0, 0, 1, 1])
    output, made = (draw_output(sizes, images=4, spectral=seed == 0, seed=seed) for seed in (0, 1))

    def losses(weights: dict[str, float], branch: str) -> dict[str, float]:
        options = {"classification_loss": name, "classification_weights": weights, "softmax_margin": 0.2}
        extra = GeneratedOutput({branch: made[branch]}, labels if key == "generated" else None, None)
        criterion = make_criterion(**options, generated=GeneratedWeights(0.5))
        return {name: loss.item() for name, loss in criterion(output, labels, generated=extra).losses.items()}

    for branch, weight in weights.items():
        plain, weighted = losses({}, branch), losses(weights, branch)
        for of_branch in (f"{name}_{branch}", f"{name}_{branch}_spectral", key):
            assert weighted[of_branch] == pytest.approx(weight * plain[of_branch])
