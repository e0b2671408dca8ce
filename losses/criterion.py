"""All losses of a training step, each a scalar under its own name."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from losses.options import LossOptions, TripletFeature
from losses.softmax import softmax_loss
from losses.triplet import batch_hard, triplet_loss
from utils.branches import GLOBAL, PARTS, BranchOutput


class Criterion(nn.Module):
    """Classification on every part of every branch, and triplet losses on the features chosen.

    Args:
        lambda_cls, lambda_tri: weights; 0 leaves a loss out.
        margin: of the triplet loss, or "soft_margin"; 0 leaves it out.
        triplet_on: "global", "parts" (each part on its own) and "concat" (the parts end to end).
        label_smoothing: of the classification.
    """

    def __init__(
        self,
        lambda_cls: float = 1.0,
        lambda_tri: float = 1.0,
        margin: float | Literal["soft_margin"] = 0.0,
        triplet_on: Sequence[TripletFeature] = ("global",),
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.lambda_cls = lambda_cls
        self.lambda_tri = lambda_tri
        self.margin: float | Literal["soft_margin"] = margin
        self.triplet_on = tuple(triplet_on) if margin != 0 and lambda_tri else ()
        self.label_smoothing = label_smoothing

    def forward(self, output: Mapping[str, BranchOutput], labels: Tensor) -> dict[str, Tensor]:
        """Outputs of the branches and labels (B,) -> weighted scalars by name; their sum is what training lowers.

        Within a branch the parts are summed for classification, as each trains a classifier of its own (Sun et al.
        2018, equation 2), and averaged for the triplet loss, whose margin is meant for one feature.
        """
        terms: dict[str, Tensor] = {}
        if self.lambda_cls:
            for name, branch in output.items():
                per_part = softmax_loss(branch.logits, labels, self.label_smoothing).mean(1)
                terms[f"softmax_{name}"] = self.lambda_cls * per_part.sum()
        for feature in self.triplet_on:
            triplets = batch_hard(_triplet_features(output, feature), labels)
            terms[f"triplet_{feature}"] = self.lambda_tri * triplet_loss(triplets, self.margin).mean()
        return terms


def build_criterion(options: LossOptions) -> Criterion:
    """The losses that the params describe."""
    return Criterion(
        options.tri_loss_lambda_cls,
        options.tri_loss_lambda_tri,
        options.tri_loss_margin,
        options.tri_loss_on,
        options.label_smoothing,
    )


def _triplet_features(output: Mapping[str, BranchOutput], feature: TripletFeature) -> Tensor:
    """(P, B, D) features that a triplet loss compares; one part of size P * D for "concat"."""
    if feature == "global":
        return output[GLOBAL].features
    parts = output[PARTS].features
    return parts if feature == "parts" else parts.transpose(0, 1).flatten(1)[None]
