from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from losses.camera_proxies import CameraProxies
from losses.criterion import Criterion
from losses.distillation import embedding_distillation, logits_distillation
from losses.generated import GeneratedWeights
from losses.loss import GeneratedOutput, Losses, TeacherOutput
from losses.options import CenterLossOptions, CirclePairs, MetricFeature, MultiSimilarity, SupervisedContrastive
from losses.softmax import softmax_loss, subtract_margin
from losses.triplet import batch_hard, batch_weighted, triplet_loss, triplet_metrics
from models.outputs import GLOBAL, PARTS, BranchOutput, ClassScores, NetworkSizes, select_images
from tests.losses.conftest import draw_output, draw_teacher, leaves_of, make_criterion

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SIZES = NetworkSizes(5, {PARTS: (3, 4), GLOBAL: (1, 8)})
FEATURES: tuple[MetricFeature, ...] = ("global", "parts", "concat")
EVERYTHING: dict[str, Any] = {
    "tri_loss_margin": 0.3,
    "tri_loss_on": ("global", "parts", "concat"),
    "softmax_margin": 0.2,
    "focal_gamma": 2.0,
    "label_smoothing": 0.1,
    "lambda_logits": 0.5,
    "lambda_embedding": 0.25,
    "sizes": SIZES,
    "teacher_dim": 7,
}


@pytest.fixture
def output() -> dict[str, BranchOutput]:
    return draw_output(SIZES)


def test_parts_are_summed_and_weighted(output: dict[str, BranchOutput]) -> None:
    losses, metrics = make_criterion(tri_loss_lambda_cls=0.5)(output, LABELS)
    expected = 0.5 * sum(F.cross_entropy(logits, LABELS).item() for logits in output[PARTS].scores.logits)
    assert set(losses) == {"softmax_parts", "softmax_global"}
    right = [(part.argmax(1) == LABELS).float() for branch in output.values() for part in branch.scores.logits]
    assert {name: value.item() for name, value in metrics.items()} == {
        "accuracy": pytest.approx(torch.cat(right).mean().item())
    }
    assert losses["softmax_parts"].item() == pytest.approx(expected, rel=1e-6)
    assert all(loss.shape == () for loss in losses.values())


def test_the_spectral_transform_is_supervised_like_the_embeddings() -> None:
    output = draw_output(SIZES, spectral=True)
    criterion = make_criterion(
        tri_loss_lambda_cls=0.5, label_smoothing=0.1, softmax_margin=(0.1, 0.3), softmax_margin_step=10, focal_gamma=2.0
    )
    losses, metrics = criterion(output, LABELS, torch.tensor(10))
    diagonals = {}
    assert set(losses) == {"softmax_parts", "softmax_parts_spectral", "softmax_global", "softmax_global_spectral"}
    for name, branch in output.items():
        assert branch.spectral is not None
        diagonals[f"spectral_{name}_diagonal"] = branch.spectral.diagonal.item()
        for loss, scores in ((name, branch.scores), (f"{name}_spectral", branch.spectral.scores)):
            classified = softmax_loss(subtract_margin(scores, LABELS, 0.3), LABELS, 0.1, 2.0)
            expected = 0.5 * sum(part.mean().item() for part in classified)
            assert losses[f"softmax_{loss}"].item() == pytest.approx(expected, rel=1e-6)
    assert "accuracy" in metrics
    assert {name: value.item() for name, value in metrics.items() if name != "accuracy"} == diagonals
    assert not any(value.requires_grad for value in metrics.values())


def test_the_margin_follows_the_step(output: dict[str, BranchOutput]) -> None:
    criterion = make_criterion(softmax_margin=(0.0, 0.4), softmax_margin_step=3)
    losses = [criterion(output, LABELS, torch.tensor(step)).losses["softmax_parts"].item() for step in (0, 2, 3, 99)]
    lowered = softmax_loss(subtract_margin(output[PARTS].scores, LABELS, 0.4), LABELS).mean(1).sum().item()
    plain = softmax_loss(output[PARTS].scores.logits, LABELS).mean(1).sum().item()
    assert losses == pytest.approx([plain, plain, lowered, lowered], rel=1e-6)
    assert lowered != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("adaptive_weight", [False, True])
def test_each_triplet_compares_its_own_features(output: dict[str, BranchOutput], adaptive_weight: bool) -> None:
    triplet = {"tri_loss_lambda_tri": 2.0, "tri_loss_margin": 0.3, "tri_loss_on": ("global", "parts", "concat")}
    losses, metrics = make_criterion(**triplet, tri_loss_adaptive_weight=adaptive_weight)(output, LABELS)
    find = batch_weighted if adaptive_weight else batch_hard
    parts = output[PARTS].features
    concat = torch.cat(list(parts), dim=1)[None]
    expected = {}
    for name, features in (("global", output[GLOBAL].features), ("parts", parts), ("concat", concat)):
        triplets = find(features, LABELS)
        assert losses[f"triplet_{name}"].item() == pytest.approx(2.0 * triplet_loss(triplets, 0.3).mean().item())
        expected |= {f"triplet_{name}_{what}": value.item() for what, value in triplet_metrics(triplets, 0.3).items()}
    found = {name: value.item() for name, value in metrics.items() if name != "accuracy"}
    assert found == pytest.approx(expected, rel=1e-5)
    assert {f"triplet_parts_{what}" for what in ("correct", "active", "positive", "negative")} < set(found)


@pytest.mark.parametrize("name", ["global", "parts", "concat"])
def test_a_triplet_reaches_only_the_branch_it_is_on(output: dict[str, BranchOutput], name: str) -> None:
    losses, _ = make_criterion(tri_loss_lambda_cls=0.0, tri_loss_margin=0.3, tri_loss_on=(name,))(output, LABELS)  # pyright: ignore[reportArgumentType]
    assert set(losses) == {f"triplet_{name}"}
    losses[f"triplet_{name}"].backward()
    reached = {branch for branch, values in output.items() if values.features.grad is not None}
    assert reached == {GLOBAL if name == "global" else PARTS}
    assert all(values.scores.logits.grad is None for values in output.values())


def test_every_part_of_every_branch_learns_the_teachers_classes(output: dict[str, BranchOutput]) -> None:
    losses, _ = make_criterion(lambda_logits=0.5, temperature=3.0)(output, LABELS, teacher=draw_teacher(6, 7, 5))
    assert set(losses) == {"softmax_parts", "softmax_global", "distillation_logits"}
    expected = 0.0
    for branch in output.values():
        for part in branch.scores.logits:
            expected += 0.5 * logits_distillation(part[None], draw_teacher(6, 7, 5).logits, 3.0).mean().item()
    assert losses["distillation_logits"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("triplet", {"tri_loss_margin": 0.3, "tri_loss_on": FEATURES}),
        ("circle_pairs", {"circle_pairs": CirclePairs(weight=1.0, on=FEATURES)}),
        ("multi_similarity", {"multi_similarity": MultiSimilarity(weight=1.0, on=FEATURES)}),
        ("supervised_contrastive", {"supervised_contrastive": SupervisedContrastive(weight=1.0, on=FEATURES)}),
        ("center", {"center_loss": CenterLossOptions(weight=1.0, on=FEATURES)}),
    ],
)
def test_losses_of_features_are_weighted(output: dict[str, BranchOutput], name: str, unit: dict[str, Any]) -> None:
    weights = {"parts": 0.5, "global": 2.0}
    if name == "triplet":
        weighted = {"tri_loss_weights": weights}
    else:
        weighted = {key: section.model_copy(update={"weights": weights}) for key, section in unit.items()}
    plain, changed = (make_criterion(**settings, sizes=SIZES)(output, LABELS) for settings in (unit, unit | weighted))
    factors = {f"{name}_{feature}": weights.get(feature, 1.0) for feature in FEATURES}
    assert {loss: value.item() for loss, value in changed.losses.items()} == pytest.approx(
        {loss: factors.get(loss, 1.0) * value.item() for loss, value in plain.losses.items()}
    )
    assert plain.losses.keys() > factors.keys()
    assert changed.metrics == plain.metrics


@pytest.mark.parametrize("of", ["features", "embeddings"])
def test_what_retrieval_compares_learns_the_teachers(output: dict[str, BranchOutput], of: str) -> None:
    teacher = draw_teacher(6, 20, 5)
    criterion = make_criterion(lambda_embedding=0.25, sizes=SIZES, teacher_dim=20, retrieval_of=of)
    assert list(criterion.parameters()) == []
    whole = torch.cat([*getattr(output[PARTS], of), *getattr(output[GLOBAL], of)], dim=1)
    expected = 0.25 * embedding_distillation(whole, teacher.embeddings).mean().item()
    losses, _ = criterion(output, LABELS, teacher=teacher)
    assert losses["distillation_embedding"].item() == pytest.approx(expected, rel=1e-5)
    same = TeacherOutput(whole.detach(), teacher.logits)
    assert criterion(output, LABELS, teacher=same).losses["distillation_embedding"].item() == 0.0


@pytest.mark.parametrize("of", ["features", "embeddings"])
def test_generated_images_are_consistent_in_what_retrieval_compares(output: dict[str, BranchOutput], of: str) -> None:
    made, sources = draw_output(SIZES, images=3, seed=1), torch.tensor([4, 0, 4])
    criterion = make_criterion(generated=GeneratedWeights(0.5, 0.8), retrieval_of=of)
    losses, _ = criterion(output, LABELS, generated=GeneratedOutput(made, LABELS[sources], sources))
    real, generated = (
        torch.cat([*getattr(found[PARTS], of), *getattr(found[GLOBAL], of)], dim=1) for found in (output, made)
    )
    expected = 0.5 * 0.8 * (1 - F.cosine_similarity(generated, real[sources])).mean().item()
    assert losses["consistency"].item() == pytest.approx(expected, rel=1e-5)


def test_embeddings_of_another_size_are_compared_through_a_projection(output: dict[str, BranchOutput]) -> None:
    torch.manual_seed(0)
    criterion = make_criterion(tri_loss_lambda_cls=0.0, lambda_embedding=1.0, sizes=SIZES, teacher_dim=7)
    shapes = {name: tuple(weight.shape) for name, weight in criterion.named_parameters()}
    assert shapes == {"distillation.projection.weight": (7, 20)}
    projection = criterion.get_submodule("distillation.projection")
    assert isinstance(projection, nn.Linear)
    whole = torch.cat([*output[PARTS].embeddings, *output[GLOBAL].embeddings], dim=1)
    expected = embedding_distillation(whole @ projection.weight.T, draw_teacher(6, 7, 5).embeddings).mean().item()
    optimizer = torch.optim.SGD(criterion.parameters(), lr=1.0)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = criterion(output, LABELS, teacher=draw_teacher(6, 7, 5)).losses["distillation_embedding"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < 0.2 * losses[0]
    assert all(branch.embeddings.grad is not None for branch in output.values())


@pytest.mark.parametrize("settings", [{"lambda_logits": 1.0}, {"lambda_embedding": 1.0}])
def test_distillation_without_a_teacher_is_refused(output: dict[str, BranchOutput], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="teacher"):
        make_criterion(**settings)(output, LABELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("adaptive_weight", [False, True])
def test_half_precision_gives_the_single_precision_losses(dtype: torch.dtype, adaptive_weight: bool) -> None:
    torch.manual_seed(0)
    criterion = make_criterion(**EVERYTHING, tri_loss_adaptive_weight=adaptive_weight)
    teacher = TeacherOutput(*(values.to(dtype) for values in draw_teacher(6, 7, 5)))
    half: Losses = criterion(draw_output(SIZES, spectral=True, dtype=dtype), LABELS, teacher=teacher)
    for name, value in {**half.losses, **half.metrics}.items():
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    single = criterion(draw_output(SIZES, spectral=True), LABELS, teacher=draw_teacher(6, 7, 5))
    for name, value in single.losses.items():
        assert half.losses[name].item() == pytest.approx(value.item(), rel=0.05), name


def test_every_gradient_is_finite_where_all_images_are_alike() -> None:
    ones = {
        name: BranchOutput(
            torch.ones(parts, 6, 4, requires_grad=True),
            torch.ones(parts, 6, 4, requires_grad=True),
            ClassScores(torch.ones(parts, 6, 5, requires_grad=True), torch.ones(parts, 6)),
        )
        for name, parts in ((PARTS, 3), (GLOBAL, 1))
    }
    alike = {"sizes": NetworkSizes(5, {PARTS: (3, 4), GLOBAL: (1, 4)}), "tri_loss_adaptive_weight": True}
    criterion = make_criterion(**EVERYTHING | alike)
    torch.stack([*criterion(ones, LABELS, teacher=draw_teacher(6, 7, 5)).losses.values()]).sum().backward()
    for branch in ones.values():
        for values in (branch.features, branch.embeddings, branch.scores.logits):
            assert values.grad is not None
            assert values.grad.isfinite().all()


def test_margin_zero_means_no_triplet() -> None:
    assert "triplet" not in make_criterion()
    assert "triplet" not in make_criterion(tri_loss_margin=0.3, tri_loss_lambda_tri=0.0)


def sliced(num_real: int) -> tuple[dict[str, BranchOutput], dict[str, BranchOutput], dict[str, BranchOutput]]:
    """Six images of a network, of which the last were generated: all, the real ones and the generated ones."""
    output = draw_output(SIZES)
    return output, select_images(output, slice(num_real)), select_images(output, slice(num_real, None))


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_generated_images_of_nobody_add_a_term_and_change_no_other(share: float) -> None:
    _, real, made = sliced(4)
    settings: dict[str, Any] = {"tri_loss_margin": 0.3, "tri_loss_on": ("global", "parts"), "tri_loss_lambda_cls": 0.5}
    plain = make_criterion(**settings)(real, LABELS[:4])
    criterion = make_criterion(**settings, generated=GeneratedWeights(share))
    losses, metrics = criterion(real, LABELS[:4], generated=GeneratedOutput(made, None, None))
    logits = [part for branch in made.values() for part in branch.scores.logits]
    expected = 0.5 * share * sum(-F.log_softmax(part, dim=1).mean().item() for part in logits)
    assert losses.pop("outliers").item() == pytest.approx(expected, rel=1e-5)
    assert {name: loss.item() for name, loss in losses.items()} == {name: t.item() for name, t in plain.losses.items()}
    assert {name: value.item() for name, value in metrics.items()} == {n: v.item() for n, v in plain.metrics.items()}


def test_a_loss_that_needs_cameras_is_not_computed_without() -> None:
    criterion = Criterion([CameraProxies(1.0, 0.1, 0.2, "each", 4, 8, 2)])
    with pytest.raises(ValueError, match="needs the cameras"):
        criterion(draw_output(SIZES), LABELS)


def test_generated_images_may_be_missing_from_a_step_but_not_their_loss() -> None:
    _, real, made = sliced(4)
    assert "outliers" not in make_criterion(generated=GeneratedWeights(0.5))(real, LABELS[:4]).losses
    assert "generated" not in make_criterion()
    assert "generated" not in make_criterion(generated=GeneratedWeights(0.5), tri_loss_lambda_cls=0.0)
    with pytest.raises(ValueError, match="generated images, but no loss for them"):
        make_criterion()(real, LABELS[:4], generated=GeneratedOutput(made, None, None))


def test_an_output_is_sliced_by_image() -> None:
    output, real, made = sliced(4)
    for name, branch in output.items():
        of_real, of_made = leaves_of(real[name]), leaves_of(made[name])
        for what, whole in leaves_of(branch).items():
            assert torch.equal(of_real[what], whole[:, :4])
            assert torch.equal(of_made[what], whole[:, 4:])
        assert made[name].spectral is None
    linear = {GLOBAL: output[GLOBAL]._replace(scores=ClassScores(output[GLOBAL].scores.logits, None))}
    assert select_images(linear, slice(2))[GLOBAL].scores.scale is None
    with pytest.raises(ValueError, match="cannot be sliced"):
        select_images(draw_output(SIZES, spectral=True), slice(4))
