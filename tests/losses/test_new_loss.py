"""Losses defined in a single file train a network like those of the criterion."""

from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.params import Params
from engine.optim import build_optimizer
from losses.branch_updates import hardest_of_batch
from losses.criterion import Criterion, build_criterion
from losses.generated import GeneratedWeights, build_generated
from losses.loss import ClassificationLoss, GeneratedOutput, Loss, Losses, LossInputs, OnFeatures, OnScores
from losses.options import LossOptions
from models.network import build_network
from models.options import ModelParams
from models.outputs import GLOBAL, PARTS, ClassScores, NetworkSizes
from tests.losses.conftest import draw_output, make_criterion

LABELS = torch.tensor([0, 0, 1, 1])
STEP = torch.tensor(3)
SIZES = NetworkSizes(3, {PARTS: (2, 4), GLOBAL: (1, 4)})


class CenterLoss(nn.Module):
    """Squared distance of each feature to the centre of its identity, which is learnt.

    Source: Wen et al. 2016, "A discriminative feature learning approach for deep face recognition", ECCV.
    """

    def __init__(self, num_classes: int, num_parts: int, dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(num_parts, num_classes, dim))

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> mean over parts and images."""
        distances = (features - self.centers[:, labels]).square().sum(-1)
        return distances.mean(), {"distance": distances.detach().sqrt().mean()}


class ArcFace(ClassificationLoss):
    """Cross entropy of scale * cos(angle + margin) of the true class, with a margin that grows.

    Source: Deng et al. 2019, arXiv 1801.07698, equation 3.
    """

    def forward(self, scores: ClassScores, labels: Tensor, step: Tensor) -> Tensor:
        assert scores.scale is not None
        scale, margin = scores.scale[..., None], (0.1 * step).clamp_max(0.5)
        cosines = (scores.logits / scale).clamp(-1 + 1e-6, 1 - 1e-6)
        is_true = F.one_hot(labels, scores.logits.shape[-1]).bool()
        logits = scale * torch.where(is_true, (cosines.acos() + margin).cos(), cosines)
        return self.weight * torch.stack([F.cross_entropy(part, labels) for part in logits])


class NormLoss(Loss):
    """Squared length of the global embedding."""

    def __init__(self) -> None:
        super().__init__("norm")

    def forward(self, inputs: LossInputs) -> Losses:
        """(B, D) -> "norm"."""
        return Losses({"norm": inputs.output["global"].embeddings.square().sum(-1).mean()}, {})


def test_a_new_loss_is_computed_logged_and_trained() -> None:
    torch.manual_seed(0)
    network = build_network(ModelParams(model="resnet_18", feature_dim=8, pcb_n_parts=2, feature_global_dim=4), 2)
    sizes = network.sizes
    assert (sizes.num_classes, sizes.branches, sizes.embedding_dim) == (2, {"parts": (2, 4), "global": (1, 4)}, 12)
    usual = build_criterion(LossOptions(tri_loss_margin=0.3))
    centers = {name: CenterLoss(sizes.num_classes, *sizes.branches[name]) for name in ("global", "parts")}
    criterion = Criterion([*usual.values(), OnFeatures("center", centers), NormLoss()])  # pyright: ignore[reportArgumentType]
    optimizer = build_optimizer(Params.model_validate({"lr": {"fc_lr": 0.5}}), network, criterion)
    output = network(torch.randn(4, 3, 64, 32))
    losses, metrics = criterion(output, LABELS)
    usual_terms = ["softmax_parts", "softmax_global", "triplet_global"]
    assert list(losses) == [*usual_terms, "center_global", "center_parts", "norm"]
    assert {"center_global_distance", "center_parts_distance"} < metrics.keys()
    # All centres are zero at the start.
    features = output["parts"].features
    assert losses["center_parts"].item() == pytest.approx(features.square().sum(-1).mean().item())
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    moved = [parameter for name, parameter in criterion.named_parameters() if name.startswith("center.losses.")]
    assert len(moved) == 2
    assert all(parameter.abs().sum() > 0 for parameter in moved)


def test_losses_must_differ_in_names_and_in_those_of_their_values() -> None:
    with pytest.raises(ValueError, match="different names, got norm, norm"):
        Criterion([NormLoss(), NormLoss()])
    other = NormLoss()
    other.name = "other"
    network = build_network(ModelParams(model="resnet_18", feature_dim=8), 2)
    with pytest.raises(ValueError, match="two losses return norm"):
        Criterion([NormLoss(), other])(network(torch.randn(4, 3, 64, 32)), LABELS)


def test_another_classification_loss_takes_the_place_of_softmax_everywhere() -> None:
    arcface = ArcFace(0.5)
    entries = [OnScores("arcface", arcface, {GLOBAL: 2.0}), build_generated(arcface, GeneratedWeights(0.5))]
    criterion = Criterion([entry for entry in entries if entry is not None], None, partial(hardest_of_batch, arcface))
    output, made = (draw_output(SIZES, images=4, spectral=seed == 0, seed=seed) for seed in (0, 1))
    losses = criterion(output, LABELS, STEP, generated=GeneratedOutput(made, LABELS, None)).losses

    def expected(scores: ClassScores) -> Tensor:
        return arcface(scores, LABELS, STEP).sum()

    parts, whole = output[PARTS], output[GLOBAL]
    assert parts.spectral is not None
    assert whole.spectral is not None
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {
            "arcface_parts": expected(parts.scores).item(),
            "arcface_parts_spectral": expected(parts.spectral.scores).item(),
            "arcface_global": 2 * expected(whole.scores).item(),
            "arcface_global_spectral": 2 * expected(whole.spectral.scores).item(),
            "generated": 0.5 * sum(expected(branch.scores).item() for branch in made.values()),
        }
    )
    losses["arcface_parts"].backward()
    assert parts.scores.logits.grad is not None
    hardest = arcface(parts.scores, LABELS, STEP).argmax()
    assert [part.any().item() for part in parts.scores.logits.grad] == [part == hardest for part in range(2)]


def test_weights_of_branches_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of glboal, but no such branch"):
        Criterion([OnScores("arcface", ArcFace(1.0), {"glboal": 2.0})])(draw_output(SIZES, images=4), LABELS)


def test_weights_of_features_without_the_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="sum: weights of parts, but no such loss"):
        OnFeatures("sum", {"global": nn.Identity()}, weights={"parts": 2.0})


@pytest.mark.parametrize("of", ["features", "embeddings"])
def test_a_metric_loss_compares_what_it_is_told_to_and_knows_the_step(of: Literal["features", "embeddings"]) -> None:
    class Recorded(nn.Module):
        def forward(self, features: Tensor, labels: Tensor, step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return step * features.sum(), {}

    output = draw_output(SIZES, images=4)
    losses = Criterion([OnFeatures("sum", dict.fromkeys(("global", "parts", "concat"), Recorded()), of=of)])(
        output, LABELS, STEP
    ).losses
    sums = {name: 3 * getattr(branch, of).sum().item() for name, branch in output.items()}
    expected = {"sum_global": sums[GLOBAL], "sum_parts": sums[PARTS], "sum_concat": sums[PARTS]}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "covers"),
    [
        ({}, True),
        ({"tri_loss_lambda_cls": 0.0, "lambda_logits": 1.0}, True),
        ({"tri_loss_lambda_cls": 0.0, "lambda_embedding": 1.0}, False),
        ({"tri_loss_lambda_cls": 0.0, "tri_loss_margin": 0.3}, False),
    ],
)
def test_only_losses_of_all_class_scores_cover_the_network(settings: dict[str, float], covers: bool) -> None:
    assert make_criterion(**settings).covers_network is covers
