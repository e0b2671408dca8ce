"""What generated images teach a re-identification network: that they are nobody, or whom they show."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.softmax import SoftmaxLoss
from models.outputs import BranchOutput, concat_embeddings
from utils.precision import at_least_fp32


def outlier_loss(logits: Tensor) -> Tensor:
    """Cross entropy against the uniform distribution, -1/N sum_n log p_n: an image of nobody is to be like no one.

    Its least value is log N, where all N probabilities are equal.

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
        sources: (B, D), of the images behind them; gets no gradient, lest real images follow generated ones.

    Returns:
        (B,), at least float32, between 0 and 2; 1 where either is zero.

    Raises:
        ValueError: the two differ in shape.
    """
    if embeddings.shape != sources.shape:
        shapes = f"{(*embeddings.shape,)} and {(*sources.shape,)}"
        raise ValueError(f"embeddings of generated images and of their sources must have one shape, got {shapes}")
    embeddings, sources = at_least_fp32(embeddings), at_least_fp32(sources.detach())
    lengths = torch.linalg.vector_norm(embeddings, dim=-1) * torch.linalg.vector_norm(sources, dim=-1)
    # Of a zero vector the product is zero already; a tiny length instead of 1 would make its gradient enormous.
    return 1 - (embeddings * sources).sum(-1) / lengths.masked_fill(lengths == 0, 1.0)


class GeneratedLoss(nn.Module):
    """What a network learns from the generated images of a step.

    Args:
        classification: the loss of real images, which generated images with a label share, and whose weight those
            without have too.
        weight: generated images in a step divided by real ones. The losses of either are means over their own images,
            M generated and R real; times M / R a mean over M counts every image 1 / R, as each real one does.
        lambda_consistency: of `consistency_loss`, beside the weight; 0 leaves it out.
    """

    def __init__(self, classification: SoftmaxLoss, weight: float, lambda_consistency: float) -> None:
        super().__init__()
        self.classification = classification
        self.weight = weight
        self.lambda_consistency = lambda_consistency

    def forward(
        self, output: Mapping[str, BranchOutput], labels: Tensor | None, sources: Tensor | None, step: int
    ) -> dict[str, Tensor]:
        """Weighted scalars by name.

        All parts of all branches are summed, as for real images.

        Args:
            output: what the network makes of the M generated images alone.
            labels: (M,) int64 of the identities shown; None: the images show nobody, and the term is "outliers".
                With labels it is "generated", the classification loss.
            sources: (M, D), whole embeddings of the images that these were generated from, for the term
                "consistency"; None leaves it out.
            step: the step, on which the margin of the classification depends.

        Raises:
            ValueError: not one label per image, sources of another shape than the embeddings or of images that show
                nobody.
        """
        if labels is None:
            if sources is not None:
                raise ValueError("generated images without labels show nobody, and take no sources")
            logits = torch.cat([branch.scores.logits for branch in output.values()])
            weight = self.classification.weight * self.weight
            return {"outliers": weight * outlier_loss(logits).mean(1).sum()}
        images = next(iter(output.values())).scores.logits.shape[1:2]
        if labels.shape != images:
            raise ValueError(f"{images[0]} generated images need as many labels, got {(*labels.shape,)}")
        losses = [self.classification(branch.scores, labels, step) for branch in output.values()]
        terms = {"generated": self.weight * torch.cat(losses).sum()}
        if self.lambda_consistency and sources is not None:
            distance = consistency_loss(concat_embeddings(output), sources)
            terms["consistency"] = self.weight * self.lambda_consistency * distance.mean()
        return terms
