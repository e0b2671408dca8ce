"""Branch updates: in a step only some stripes get a gradient; the others still count in the values of the losses."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from losses.loss import ClassificationLoss, LossInputs
from models.options import ModelParams
from models.outputs import PARTS, BranchOutput, ClassScores, SpectralOutput
from utils.distributed import mean_over_processes
from utils.randomness import BRANCHES, seed_for

ChooseParts = Callable[[LossInputs], Tensor]
"""Inputs of a step -> (P,) bool, the stripes that it updates; the same in all processes."""


def build_part_choice(model: ModelParams, classification: ClassificationLoss | None, seed: int) -> ChooseParts | None:
    """How `model_params` chooses the stripes that a step updates; None: every step updates all.

    Raises:
        ValueError: the stripes are chosen in two ways, or by a classification loss that is off.
    """
    if model.update_max_loss_branch:
        if model.random_drop_branches or classification is None:
            raise ValueError("update_max_loss_branch needs a classification loss and no random_drop_branches")
        return lambda inputs: hardest_of_batch(inputs, classification)
    if model.random_drop_branches:
        return lambda inputs: draw_for_step(inputs, model.random_drop_branches, seed)
    return None


def draw_for_step(inputs: LossInputs, draws: int, seed: int) -> Tensor:
    """`draw_updated_parts`, from the seed of the run and the number of the step: (P,) bool."""
    generator = torch.Generator(inputs.labels.device).manual_seed(seed_for(BRANCHES, seed, inputs.step))
    return draw_updated_parts(len(inputs.output[PARTS].features), draws, generator)


@torch.no_grad()
def hardest_of_batch(inputs: LossInputs, classification: ClassificationLoss) -> Tensor:
    """The stripe with the highest classification loss of the whole batch, of all processes: (P,) bool."""
    losses = classification(inputs.output[PARTS].scores, inputs.labels, inputs.step)
    return hardest_part(mean_over_processes(losses))


def draw_updated_parts(num_parts: int, draws: int, generator: torch.Generator) -> Tensor:
    """Draw the parts that a step updates: (P,) bool on the generator's device, at least one True.

    Each draw excludes a part, with replacement. If all are excluded, the last drawn is updated: each equally often.

    Args:
        num_parts: P.
        draws: at least 1.
        generator: of the draws; with the same seed in all processes they update the same parts.
    """
    drawn = torch.randint(num_parts, (draws,), generator=generator, device=generator.device)
    parts = torch.arange(num_parts, device=generator.device)
    left_out = (drawn[:, None] == parts).any(0)
    return ~left_out | (left_out.all() & (parts == drawn[-1]))


def hardest_part(losses: Tensor) -> Tensor:
    """The part with the highest loss, the first of several: losses (P,) -> (P,) bool, one True."""
    return torch.arange(len(losses), device=losses.device) == losses.argmax()


def detach_other_parts(inputs: LossInputs, keep: Tensor) -> LossInputs:
    """The same values; of the stripes only those to keep, (P,) bool, get a gradient from any loss."""

    def detached(output: Mapping[str, BranchOutput]) -> dict[str, BranchOutput]:
        return {name: detach_branch(branch, keep) if name == PARTS else branch for name, branch in output.items()}

    generated = inputs.generated
    if generated is not None:
        generated = generated._replace(output=detached(generated.output))
    return inputs._replace(output=detached(inputs.output), generated=generated)


def detach_branch(branch: BranchOutput, keep: Tensor) -> BranchOutput:
    """The same values; only the parts to keep, (P,) bool, get a gradient."""

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
