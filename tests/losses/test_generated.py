import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.generated import GeneratedLoss, GeneratedWeights, consistency_loss, outlier_loss
from losses.loss import GeneratedOutput, LossInputs
from losses.softmax import MarginSchedule, SoftmaxLoss, softmax_loss
from models.outputs import GLOBAL, PARTS, BranchOutput, ClassScores, NetworkSizes
from tests.losses.conftest import draw_output

LABELS = torch.tensor([0, 5, 2, 2])
SIZES = NetworkSizes(6, {PARTS: (3, 2), GLOBAL: (1, 5)})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def losses_of(
    classification: SoftmaxLoss,
    weights: tuple[float, float],
    output: dict[str, BranchOutput],
    labels: Tensor | None,
    sources: Tensor | None = None,
    step: int = 0,
) -> dict[str, Tensor]:
    """Losses of generated images by share and lambda_consistency; `sources` (4, 11) are the real images' embeddings."""
    real, places = draw_output(SIZES, 4, seed=1), torch.tensor([2, 0, 3, 1])
    if sources is not None:
        rows = sources[places.argsort()]
        parts, whole = rows[:, :6].view(4, 3, 2).transpose(0, 1), rows[None, :, 6:]
        real = {PARTS: real[PARTS]._replace(embeddings=parts), GLOBAL: real[GLOBAL]._replace(embeddings=whole)}
    generated = GeneratedOutput(output, labels, None if sources is None else places)
    loss = GeneratedLoss(classification, GeneratedWeights(*weights))
    losses, metrics = loss(LossInputs(real, LABELS, torch.tensor(step), None, generated))
    assert metrics == {}
    return losses


def reference_outlier(logits: list[float]) -> float:
    """-1/N times the sum of the logarithms of all N probabilities."""
    total = math.fsum(math.exp(value) for value in logits)
    return -math.fsum(math.log(math.exp(value) / total) for value in logits) / len(logits)


def reference_cosine(left: list[float], right: list[float]) -> float:
    product = math.fsum(a * b for a, b in zip(left, right, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in left)) / math.sqrt(math.fsum(b * b for b in right))


@pytest.mark.parametrize("parts", [1, 3])
def test_the_outlier_loss_equals_its_definition_for_every_part_and_image(parts: int) -> None:
    logits = draw(parts, 5, 7)
    losses = outlier_loss(logits)
    assert losses.shape == (parts, 5)
    for part in range(parts):
        for image in range(5):
            expected = reference_outlier(logits[part, image].tolist())
            assert losses[part, image].item() == pytest.approx(expected, rel=1e-5)


def test_an_outlier_is_a_label_smoothed_over_all_identities() -> None:
    logits = draw(1, 5, 7)
    smoothed = F.cross_entropy(logits[0], torch.arange(5), reduction="none", label_smoothing=1.0)
    torch.testing.assert_close(outlier_loss(logits)[0], smoothed)


def test_an_outlier_that_is_equally_like_everyone_has_the_least_loss() -> None:
    logits = torch.full((1, 1, 7), 4.2, requires_grad=True)
    loss = outlier_loss(logits).sum()
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.abs().max().item() < 1e-6
    assert (outlier_loss(draw(3, 5, 7)) > math.log(7)).all()


def test_the_consistency_loss_equals_its_definition() -> None:
    embeddings, sources = draw(4, 5), draw(4, 5, seed=1)
    losses = consistency_loss(embeddings, sources)
    assert losses.shape == (4,)
    for image, loss in enumerate(losses.tolist()):
        expected = 1 - reference_cosine(embeddings[image].tolist(), sources[image].tolist())
        assert loss == pytest.approx(expected, rel=1e-5)
    lengthened = consistency_loss(7 * embeddings, embeddings)
    assert lengthened.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert consistency_loss(-embeddings, embeddings).tolist() == pytest.approx([2.0] * 4)


def test_the_generated_image_follows_its_source_and_not_the_other_way_round() -> None:
    embeddings, sources = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_()
    before = consistency_loss(embeddings, sources)
    before.sum().backward()
    assert sources.grad is None
    assert embeddings.grad is not None
    assert (consistency_loss(embeddings - 0.1 * embeddings.grad, sources) < before).all()


def test_zero_vectors_have_a_finite_loss_and_a_modest_gradient() -> None:
    embeddings, sources = draw(3, 5), draw(3, 5, seed=1)
    embeddings[0] = embeddings[1] = sources[1] = sources[2] = 0
    losses = consistency_loss(embeddings.requires_grad_(), sources)
    assert losses.tolist() == [1.0, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(losses.sum(), embeddings)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= sources.abs().max()


def test_embeddings_and_sources_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(1, 5\)"):
        consistency_loss(torch.zeros(4, 5), torch.zeros(1, 5))


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_images_of_nobody_are_outliers_to_every_part_of_every_branch(share: float) -> None:
    output = draw_output(SIZES, 4)
    losses = losses_of(SoftmaxLoss(), (share, 1.0), output, None)
    expected = 0.0
    for branch in output.values():
        for part in branch.scores.logits:
            expected += math.fsum(reference_outlier(image.tolist()) for image in part) / 4
    assert losses.keys() == {"outliers"}
    assert losses["outliers"].shape == ()
    assert losses["outliers"].item() == pytest.approx(share * expected, rel=1e-5)
    half = losses_of(SoftmaxLoss(0.5), (share, 1.0), output, None)["outliers"]
    assert half.item() == pytest.approx(0.5 * share * expected, rel=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_images_of_an_identity_are_classified_and_follow_their_sources(share: float) -> None:
    output, sources = draw_output(SIZES, 4), draw(4, 11, seed=9)
    losses = losses_of(SoftmaxLoss(0.5, label_smoothing=0.1), (share, 2.0), output, LABELS, sources)
    classified = 0.0
    for branch in output.values():
        for part in softmax_loss(branch.scores.logits, LABELS, 0.1):
            classified += 0.5 * part.mean().item()
    distances = []
    for image in range(4):
        row = [value for stripe in output[PARTS].embeddings for value in stripe[image].tolist()]
        row += output[GLOBAL].embeddings[0, image].tolist()
        distances.append(1 - reference_cosine(row, sources[image].tolist()))
    expected = {"generated": share * classified, "consistency": share * 2.0 * math.fsum(distances) / 4}
    assert all(loss.shape == () for loss in losses.values())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_the_margin_of_the_step_holds_for_generated_images_too() -> None:
    margins = SoftmaxLoss(margin=MarginSchedule((0.0, 0.4), 10))
    without, later = (
        losses_of(margins, (1.0, 0.0), draw_output(SIZES, 4), LABELS, step=step)["generated"] for step in (0, 10)
    )
    plain = losses_of(SoftmaxLoss(), (1.0, 0.0), draw_output(SIZES, 4), LABELS)["generated"]
    assert without.item() == pytest.approx(plain.item())
    assert later > without


def test_consistency_needs_sources_and_a_weight() -> None:
    output, sources = draw_output(SIZES, 4), draw(4, 11)
    assert losses_of(SoftmaxLoss(), (1.0, 1.0), output, LABELS, sources).keys() == {"generated", "consistency"}
    assert losses_of(SoftmaxLoss(), (1.0, 1.0), output, LABELS).keys() == {"generated"}
    assert losses_of(SoftmaxLoss(), (1.0, 0.0), output, LABELS, sources).keys() == {"generated"}


def test_weighted_by_its_share_a_generated_image_counts_as_much_as_a_real_one() -> None:
    """8 real and 4 generated images: each adds an eighth of its own loss."""
    logits = draw(1, 12, 6).requires_grad_()
    labels = torch.arange(12) % 6
    embeddings = torch.zeros(1, 4, 5)
    generated = {GLOBAL: BranchOutput(embeddings, embeddings, ClassScores(logits[:, 8:], None))}
    real = SoftmaxLoss()(ClassScores(logits[:, :8], None), labels[:8], 0).sum()
    total = real + losses_of(SoftmaxLoss(), (4 / 8, 0.0), generated, labels[8:])["generated"]
    assert total.item() == pytest.approx(softmax_loss(logits, labels).sum().item() / 8, rel=1e-6)


def test_images_without_labels_have_no_sources() -> None:
    with pytest.raises(ValueError, match="cannot have sources"):
        losses_of(SoftmaxLoss(), (1.0, 1.0), draw_output(SIZES, 4), None, draw(4, 11))
