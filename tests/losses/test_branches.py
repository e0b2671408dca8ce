"""The losses of MGN, LightMBN, CLIP-ReID's baseline and TransReID, as their recipes describe them."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from config.load import load_params
from evaluate.core.plugins import plugin_options
from losses.center import build_center
from losses.criterion import build_criterion
from losses.options import CenterLossOptions
from models.options import HEADS
from models.outputs import BranchOutput, ClassScores, NetworkSizes
from tests.conftest import ROOT

DIM, CLASSES = 6, 5
RECIPES = {"mgn": "mgn", "lightmbn": "lightmbn", "clip": "clipreid_baseline", "jpm": "transreid"}
LABELS = torch.tensor([0, 0, 3, 3, 4, 4])
Head = Literal["mgn", "lightmbn", "clip", "jpm"]


def output_of(head: Head) -> dict[str, BranchOutput]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def branch(parts: int) -> BranchOutput:
        scale = torch.full((parts, len(LABELS)), 64.0, dtype=torch.float64)
        logits = 64 * draw(parts, len(LABELS), CLASSES).tanh()
        scores = ClassScores(logits, scale) if head == "mgn" else ClassScores(logits / 64, None)
        return BranchOutput(draw(parts, len(LABELS), DIM), draw(parts, len(LABELS), DIM), scores)

    output = {name: branch(parts) for name, parts in HEADS[head].items()}
    if head == "clip":
        output["global"] = output["global"]._replace(penultimate=draw(1, len(LABELS), DIM))
    return output


def losses_of(head: Head) -> tuple[dict[str, BranchOutput], dict[str, Tensor]]:
    params, _ = load_params(ROOT / f"recipes/field/{RECIPES[head]}.json", plugin_options=plugin_options)
    output = output_of(head)
    return output, build_criterion(params)(output, LABELS).losses


def triplet_differences(features: Tensor) -> Tensor:
    """Distances of the hardest positive and negative of each image of (B, D), subtracted: (B,)."""
    differences = []
    for anchor, label in zip(features, LABELS, strict=True):
        distances = (features - anchor).norm(dim=1)
        differences.append(distances[label == LABELS].max() - distances[label != LABELS].min())
    return torch.stack(differences)


def soft_triplet(features: Tensor) -> Tensor:
    return triplet_differences(features).exp().log1p().mean()


def circle(scores: ClassScores, part: int) -> Tensor:
    """CircleSoftmax with margin 0.35, scale 64, and a smoothed label of 0.1 over the other classes."""
    losses = []
    for logits, label in zip(scores.logits[part], LABELS, strict=True):
        cosines, true = logits / 64, F.one_hot(label, CLASSES).bool()
        positive = (1.35 - cosines).clamp_min(0) * (cosines - 0.65)
        negative = (cosines + 0.35).clamp_min(0) * (cosines - 0.35)
        share = torch.where(true, 0.9, 0.1 / (CLASSES - 1))
        losses.append(-(share * (64 * torch.where(true, positive, negative)).log_softmax(0)).sum())
    return torch.stack(losses).mean()


def test_mgn_weighs_eight_classifiers_and_five_triplet_losses() -> None:
    output, losses = losses_of("mgn")
    expected = {
        f"circle_{name}": 0.125 * sum(circle(branch.scores, part) for part in range(len(branch.features)))
        for name, branch in output.items()
    }
    embeddings = {name: branch.embeddings for name, branch in output.items()}
    for name in ("global", "global2", "global3"):
        expected[f"triplet_{name}"] = 0.2 * soft_triplet(embeddings[name][0])
    for number in ("2", "3"):
        together = torch.cat(list(embeddings[f"parts{number}"]), dim=1)
        expected[f"triplet_concat{number}"] = 0.2 * soft_triplet(together)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, check_dtype=False)


def multi_similarity(features: Tensor) -> Tensor:
    """Of (B, D): margin 0.7 of the mining, scales 2 and 40, threshold 0.5."""
    losses = []
    unit = F.normalize(features)
    for place, label in enumerate(LABELS):
        cosines = unit @ unit[place]
        same = (label == LABELS) & (torch.arange(len(LABELS)) != place)
        lowest, highest = cosines[same].min(), cosines[label != LABELS].max()
        positive = cosines[same & (cosines - 0.7 < highest)]
        negative = cosines[(label != LABELS) & (cosines + 0.7 > lowest)]
        pull, push = (-2 * (positive - 0.5)).exp().sum(), (40 * (negative - 0.5)).exp().sum()
        losses.append(pull.log1p() / 2 + push.log1p() / 40)
    return torch.stack(losses).mean()


def test_lightmbn_halves_seven_classifiers_and_three_multi_similarity_losses() -> None:
    output, losses = losses_of("lightmbn")
    expected = {
        f"softmax_{name}": 0.5 * sum(F.cross_entropy(x, LABELS, label_smoothing=0.1) for x in branch.scores.logits)
        for name, branch in output.items()
    }
    for name in ("global", "drop", "global2"):
        expected[f"multi_similarity_{name}"] = 0.5 * multi_similarity(output[name].features[0])
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], torch.as_tensor(value), check_dtype=False)


def test_clipreid_has_two_classifiers_and_three_triplet_losses() -> None:
    output, losses = losses_of("clip")
    penultimate = output["global"].penultimate
    assert penultimate is not None
    expected = {
        f"softmax_{name}": F.cross_entropy(branch.scores.logits[0], LABELS, label_smoothing=0.1)
        for name, branch in output.items()
    }
    compared = {"penultimate": penultimate, **{name: branch.features for name, branch in output.items()}}
    for name, features in compared.items():
        expected[f"triplet_{name}"] = (triplet_differences(features[0]) + 0.3).clamp_min(0).mean()
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, check_dtype=False)


def test_transreid_halves_the_losses_of_the_whole_and_the_mean_of_those_of_the_parts() -> None:
    output, losses = losses_of("jpm")
    whole, parts = output["global"], output["parts"]
    expected = {
        "softmax_global": 0.5 * F.cross_entropy(whole.scores.logits[0], LABELS),
        "softmax_parts": 0.5 * torch.stack([F.cross_entropy(x, LABELS) for x in parts.scores.logits]).mean(),
        "triplet_global": 0.5 * soft_triplet(whole.features[0]),
        "triplet_parts": 0.5 * torch.stack([soft_triplet(x) for x in parts.features]).mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, check_dtype=False)


@pytest.mark.parametrize(("feature", "shape"), [("parts3", (3, CLASSES, DIM)), ("concat3", (1, CLASSES, 3 * DIM))])
def test_centers_have_the_size_of_their_branch(feature: str, shape: tuple[int, ...]) -> None:
    sizes = NetworkSizes(CLASSES, {name: (parts, DIM) for name, parts in HEADS["mgn"].items()})
    loss = build_center(CenterLossOptions.model_validate({"weight": 1, "on": (feature,)}), sizes)
    assert loss is not None
    assert loss.losses[feature].get_buffer("centers").shape == shape
