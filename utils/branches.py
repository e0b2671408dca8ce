"""The language models and losses share: what each branch of a network gives in training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PARTS = "parts"
"""Name of the branch of horizontal stripes."""
GLOBAL = "global"
"""Name of the branch that sees the whole feature map."""


class ClassScores(NamedTuple):
    """What a classifier says of P parts of B images."""

    logits: Tensor
    """(P, B, N)."""
    lengths: Tensor | None
    """(P, B), what a cosine classifier multiplied the cosines with; None: the classifier is linear."""


class SpectralOutput(NamedTuple):
    """What the spectral transform of a batch gives: each image seen together with those like it."""

    scores: ClassScores
    """Of the transformed embeddings, by the same classifier."""
    diagonal: Tensor
    """Scalar: the mean share that an embedding has in its own transform; 1 = nothing is mixed."""


class BranchOutput(NamedTuple):
    """What one branch gives in training. P is 1 for a global or single feature."""

    features: Tensor
    """(P, B, D) before normalisation; what a metric loss sees."""
    embeddings: Tensor
    """(P, B, D) after normalisation; what retrieval uses."""
    scores: ClassScores
    """Of the embeddings."""
    spectral: SpectralOutput | None = None
    """None where the spectral transform does not act."""


def of_images(output: Mapping[str, BranchOutput], images: slice) -> dict[str, BranchOutput]:
    """What a network gave for some images of the batch.

    Raises:
        ValueError: the spectral transform acted; what it gives belongs to the whole batch.
    """

    def part(branch: BranchOutput) -> BranchOutput:
        if branch.spectral is not None:
            raise ValueError("the output of the spectral transform cannot be parted")
        lengths = branch.scores.lengths
        scores = ClassScores(branch.scores.logits[:, images], None if lengths is None else lengths[:, images])
        return BranchOutput(branch.features[:, images], branch.embeddings[:, images], scores)

    return {name: part(branch) for name, branch in output.items()}


def whole_embedding(output: Mapping[str, BranchOutput]) -> Tensor:
    """Embeddings of all parts of all branches end to end: (B, D), as retrieval compares them."""
    return end_to_end([branch.embeddings for branch in output.values()])


def end_to_end(branches: Sequence[Tensor]) -> Tensor:
    """(P, B, D) of each branch, P and D its own, -> all their parts in one row: (B, sum of P * D)."""
    return torch.cat([parts.transpose(0, 1).flatten(1) for parts in branches], dim=1)


def whole_logits(output: Mapping[str, BranchOutput]) -> Tensor:
    """Class scores of the whole network (B, N): the mean of all parts' logits.

    Their softmax is the normalised geometric mean of the parts' probabilities, the logarithmic opinion pool. Every
    part of every branch has the same weight, as in the classification loss; and since log-sum-exp is convex, the
    cross entropy of the pool is at most the mean of theirs, which is what training lowers.

    Source: Heskes 1998, "Selecting weighting factors in logarithmic opinion pools", NIPS 10.
    """
    return torch.cat([branch.scores.logits.float() for branch in output.values()]).mean(dim=0)
