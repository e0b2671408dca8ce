"""What each branch of a network returns in training; losses take it as input."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PARTS = "parts"
"""Name of the branch of horizontal stripes."""
GLOBAL = "global"
"""Name of the branch that sees the whole feature map."""
PENULTIMATE = "penultimate"
"""Name of the class token before the last block, which only losses see."""
FeatureKind = Literal["features", "embeddings"]
"""Fields of a branch's output: before or after the neck."""


class ClassScores(NamedTuple):
    """A classifier's output for P parts of B images."""

    logits: Tensor
    """(P, B, N)."""
    scale: Tensor | None
    """(P, B), the factor between cosines and logits of a cosine classifier; None for a linear classifier."""


class SpectralOutput(NamedTuple):
    """Output of the spectral transform of a batch."""

    scores: ClassScores
    """Of the transformed classifier inputs, by the branch's classifier."""
    diagonal: Tensor
    """Scalar: the mean weight of a vector in its own transform; 1 = the transform changes nothing."""


class BranchOutput(NamedTuple):
    """Output of one branch in training. P is 1 for a global or single feature."""

    features: Tensor
    """(P, B, D) before the neck."""
    embeddings: Tensor
    """(P, B, D) after it."""
    scores: ClassScores
    """Of the embeddings, or of the features."""
    spectral: SpectralOutput | None = None
    """None without the spectral transform."""
    penultimate: Tensor | None = None
    """(1, B, C) class token before the last block, of the global branch; None with other heads than "clip"."""
    retrieval_scale: float = 1.0
    """Factor of the branch in what retrieval compares."""


class NetworkSizes(NamedTuple):
    """The sizes of a network's outputs, for losses with parameters."""

    num_classes: int
    """N."""
    branches: Mapping[str, tuple[int, int]]
    """P and D of every branch."""

    @property
    def embedding_dim(self) -> int:
        """Size of the embedding of all parts of all branches."""
        return sum(num_parts * dim for num_parts, dim in self.branches.values())


def select_images(output: Mapping[str, BranchOutput], images: slice) -> dict[str, BranchOutput]:
    """The output for a slice of the batch's images.

    Raises:
        ValueError: the output includes a spectral transform, which depends on the whole batch.
    """

    def select(branch: BranchOutput) -> BranchOutput:
        if branch.spectral is not None:
            raise ValueError("the output of a spectral transform depends on the whole batch and cannot be sliced")
        scale = branch.scores.scale
        scores = ClassScores(branch.scores.logits[:, images], None if scale is None else scale[:, images])
        penultimate = None if branch.penultimate is None else branch.penultimate[:, images]
        features, embeddings = branch.features[:, images], branch.embeddings[:, images]
        return branch._replace(features=features, embeddings=embeddings, scores=scores, penultimate=penultimate)

    return {name: select(branch) for name, branch in output.items()}


def concat_scores(scores: Sequence[ClassScores]) -> ClassScores:
    """The class scores of several branches, (P, B, N) each, as those of all their parts: (sum of P, B, N)."""
    if len(scores) == 1:
        return scores[0]
    scales = [each.scale for each in scores if each.scale is not None]
    return ClassScores(torch.cat([each.logits for each in scores]), torch.cat(scales) if scales else None)


def concat_branches(output: Mapping[str, BranchOutput], of: FeatureKind) -> Tensor:
    """Features or embeddings of all parts of all branches as retrieval compares them: (B, D)."""
    return concat_parts([scaled(getattr(branch, of), branch.retrieval_scale) for branch in output.values()])


def scaled(parts: Tensor, scale: float) -> Tensor:
    """The same tensor where the scale is 1."""
    return parts if scale == 1 else scale * parts


def concat_parts(branches: Sequence[Tensor]) -> Tensor:
    """Concatenate the parts of several branches, each (P, B, D) with its own P and D: (B, sum of P * D)."""
    return torch.cat([parts.transpose(0, 1).flatten(1) for parts in branches], dim=1)


def mean_logits(output: Mapping[str, BranchOutput]) -> Tensor:
    """Class scores of the whole network (B, N): the mean of all parts' logits.

    Their softmax is the normalised geometric mean of the parts' probabilities, the logarithmic opinion pool. Every
    part of every branch has the same weight, as in the classification loss; and since log-sum-exp is convex, the
    cross entropy of the pool is at most the mean of theirs, which training minimises.

    Source: Heskes 1998, "Selecting weighting factors in logarithmic opinion pools", NIPS 10.
    """
    return torch.cat([branch.scores.logits.float() for branch in output.values()]).mean(dim=0)
