"""Branch updates: in a step only some stripes get a gradient; the others still count in the values of the losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from losses.loss import ClassificationLoss, LossInputs
from models.outputs import PARTS, BranchOutput, ClassScores, SpectralOutput
from utils.distributed import mean_over_processes
from utils.randomness import BRANCHES, seed_for


class RandomParts:
    """Draws the stripes that each step updates, on the CPU, so that they are the same on every device.

    Args:
        num_parts, draws: as of `draw_updated_parts`.
        seed: of the run; with the number of the step it decides, in all processes alike.
    """

    def __init__(self, num_parts: int, draws: int, seed: int) -> None:
        self.num_parts, self.draws, self.seed = num_parts, draws, seed
        self.generator = torch.Generator()

    def draw(self, step: int) -> Tensor:
        """The number of a step -> (P,) bool."""
        self.generator.manual_seed(seed_for(BRANCHES, self.seed, step))
        return draw_updated_parts(self.num_parts, self.draws, self.generator)


@torch.no_grad()
def hardest_of_batch(classification: ClassificationLoss, inputs: LossInputs) -> Tensor:
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
    return branch._replace(
        features=kept(branch.features),
        embeddings=kept(branch.embeddings),
        scores=kept_scores(branch.scores),
        spectral=None if spectral is None else SpectralOutput(kept_scores(spectral.scores), spectral.diagonal),
    )
