"""Updating only some stripes in a step: the others add to the losses' values, but get no gradient."""

import torch
from torch import Tensor

from models.outputs import BranchOutput, ClassScores, SpectralOutput


def draw_updated_parts(num_parts: int, draws: int, generator: torch.Generator) -> Tensor:
    """Draw the parts that a step updates: (P,) bool on the generator's device, at least one True.

    Each draw names a part to leave out, with replacement. If that names all, the last drawn is updated after all;
    by symmetry each part is that one equally often.

    Args:
        num_parts: P.
        draws: at least 1.
        generator: source of the draws; processes that are to update the same parts have one of the same seed.
    """
    drawn = torch.randint(num_parts, (draws,), generator=generator, device=generator.device)
    parts = torch.arange(num_parts, device=generator.device)
    left_out = (drawn[:, None] == parts).any(0)
    return ~left_out | (left_out.all() & (parts == drawn[-1]))


def hardest_part(losses: Tensor) -> Tensor:
    """The part with the highest loss, the first of equals: losses (P,) -> (P,) bool, one True."""
    return torch.arange(len(losses), device=losses.device) == losses.argmax()


def leave_out(branch: BranchOutput, keep: Tensor) -> BranchOutput:
    """The same values, the gradient reaching only the parts to keep, (P,) bool, from whatever loss is computed."""

    def kept(values: Tensor) -> Tensor:
        return torch.where(keep.view(-1, *[1] * (values.dim() - 1)), values, values.detach())

    def kept_scores(scores: ClassScores) -> ClassScores:
        return ClassScores(kept(scores.logits), None if scores.scale is None else kept(scores.scale))

    spectral = branch.spectral
    return BranchOutput(
        kept(branch.features),
        kept(branch.embeddings),
        kept_scores(branch.scores),
        None if spectral is None else SpectralOutput(kept_scores(spectral.scores), spectral.diagonal),
    )
