"""Losses of generated images in the training of a re-ID network."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import ClassificationLoss, Loss, Losses, LossInputs
from models.outputs import FeatureKind, concat_branches
from utils.precision import at_least_fp32


def outlier_loss(logits: Tensor) -> Tensor:
    """Cross entropy with the uniform distribution, -1/N sum_n log p_n, for images that show no identity.

    Its minimum is log N, where all N probabilities are equal.

    Args:
        logits: (P, B, N).

    Returns:
        (P, B), at least float32.

    Source: Zheng et al. 2017, arXiv 1701.07717, the LSRO loss with Z = 1.
    """
    return -F.log_softmax(at_least_fp32(logits), dim=-1).mean(-1)


def consistency_loss(embeddings: Tensor, sources: Tensor) -> Tensor:
    """1 - cosine between a generated image's embedding and that of the image it was generated from.

    Args:
        embeddings: (B, D), of the generated images.
        sources: (B, D), of the images they were generated from; get no gradient.

    Returns:
        (B,), at least float32, between 0 and 2; 1 where either is zero.

    Raises:
        ValueError: different shapes.
    """
    if embeddings.shape != sources.shape:
        shapes = f"{(*embeddings.shape,)} and {(*sources.shape,)}"
        raise ValueError(f"embeddings of generated images and of their sources must have one shape, got {shapes}")
    embeddings, sources = at_least_fp32(embeddings), at_least_fp32(sources.detach())
    lengths = torch.linalg.vector_norm(embeddings, dim=-1) * torch.linalg.vector_norm(sources, dim=-1)
    # A zero vector has a zero product already; with an epsilon instead of 1 its gradient would be huge.
    return 1 - (embeddings * sources).sum(-1) / lengths.masked_fill(lengths == 0, 1.0)


class GeneratedWeights(NamedTuple):
    """Weights of generated images."""

    share: float
    """Generated images of a step divided by its real ones."""
    lambda_consistency: float = 0.0
    """Weight of `consistency_loss`, beside the share; 0 leaves it out."""


class GeneratedLoss(Loss):
    """Loss of the generated images of a step.

    Without labels they are "outliers"; with labels "generated" is their classification loss, and "consistency" compares
    them to the images they were generated from. All parts of all branches are summed, as for real images.

    The losses are means over the M generated images, those of real images over the R real ones; times M / R, the share,
    every image counts 1 / R.

    Args:
        classification: the loss of real images, applied to generated images with labels; its weight is that of images
            without labels, too.
        weights: of generated images.
        branch_weights: of `OnScores`, for the loss of real images.
        retrieval_of: what the compared embeddings consist of.
    """

    def __init__(
        self,
        classification: ClassificationLoss,
        weights: GeneratedWeights,
        branch_weights: Mapping[str, float] = {},
        retrieval_of: FeatureKind = "embeddings",
    ) -> None:
        super().__init__("generated", ["generated"])
        self.classification = classification
        self.weights = weights
        self.branch_weights = dict(branch_weights)
        self.retrieval_of: FeatureKind = retrieval_of

    def forward(self, inputs: LossInputs) -> Losses:
        """No loss in a step without generated images.

        Raises:
            ValueError: sources of images without labels.
        """
        if inputs.generated is None:
            return Losses({}, {})
        output, labels, sources = inputs.generated
        share, lambda_consistency = self.weights
        if labels is None:
            if sources is not None:
                raise ValueError("generated images without labels cannot have sources")
            weight = self.classification.weight * share
            outliers = [
                self._weigh(name, outlier_loss(branch.scores.logits).mean(1)) for name, branch in output.items()
            ]
            return Losses({"outliers": weight * torch.cat(outliers).sum()}, {})
        classified = [
            self._weigh(name, self.classification(branch.scores, labels, inputs.step))
            for name, branch in output.items()
        ]
        losses = {"generated": share * torch.cat(classified).sum()}
        if lambda_consistency and sources is not None:
            real = concat_branches(inputs.output, self.retrieval_of)[sources]
            distance = consistency_loss(concat_branches(output, self.retrieval_of), real)
            losses["consistency"] = share * lambda_consistency * distance.mean()
        return Losses(losses, {})

    def _weigh(self, branch: str, values: Tensor) -> Tensor:
        weight = self.branch_weights.get(branch, 1.0)
        return values if weight == 1 else weight * values


def build_generated(
    classification: ClassificationLoss | None,
    weights: GeneratedWeights | None,
    branch_weights: Mapping[str, float] = {},
    retrieval_of: FeatureKind = "embeddings",
) -> GeneratedLoss | None:
    """The loss of generated images; None: there are none, or classification is off."""
    if classification is None or weights is None:
        return None
    return GeneratedLoss(classification, weights, branch_weights, retrieval_of)
