"""All losses of a training step, each a scalar under its own name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losses.branch_updates import draw_updated_parts, hardest_part, leave_out
from losses.distillation import DistillationLoss, TeacherOutput
from losses.generated import GeneratedLoss
from losses.options import LossOptions, TripletFeature
from losses.softmax import SoftmaxLoss
from losses.triplet import TripletLoss
from models.outputs import GLOBAL, PARTS, BranchOutput, ClassScores, concat_embeddings, concat_parts
from utils.collectives import gathered
from utils.distributed import mean_over_processes
from utils.randomness import BRANCHES, seed_for


class Losses(NamedTuple):
    """Scalars of a step, by name."""

    terms: dict[str, Tensor]
    """Weighted; their sum is what training lowers."""
    measures: dict[str, Tensor]
    """For the log only, without gradient."""


class OfGenerated(NamedTuple):
    """What a network made of the generated images of a step, and whom these show."""

    output: Mapping[str, BranchOutput]
    """Of M images."""
    labels: Tensor | None
    """(M,) int64; None: they show nobody."""
    sources: Tensor | None
    """(M,) int64: the real images of the batch that they were made from; None: from none."""


class Criterion(nn.Module):
    """Classification on every part of every branch, triplet losses on the features chosen, what a teacher teaches, and
    what generated images do.

    With several processes each has its part of the batch, and the losses of the whole are the mean of theirs.

    Args:
        classification, triplet, distillation, generated: the losses; None leaves one out.
        triplet_on: "global", "parts" (each part on its own) and "concat" (the parts end to end).
        random_drop_branches: draws of stripes that get no gradient from a step; 0: all get one.
        update_max_loss_branch: whether of all stripes only that with the highest classification loss gets a gradient.
        gather_embeddings: whether the triplets are those of the images of all processes, of which each has as many;
            otherwise each process forms triplets of its own. The triplet losses and their measures are then the same
            in all.
        seed: of the run; the stripes left out follow from it and the step, the same in all processes.

    Raises:
        ValueError: the stripe to update is chosen in two ways, or by a classification loss that is left out.
    """

    def __init__(
        self,
        classification: SoftmaxLoss | None,
        triplet: TripletLoss | None = None,
        distillation: DistillationLoss | None = None,
        triplet_on: Sequence[TripletFeature] = ("global",),
        random_drop_branches: int = 0,
        update_max_loss_branch: bool = False,
        gather_embeddings: bool = False,
        seed: int = 0,
        generated: GeneratedLoss | None = None,
    ) -> None:
        super().__init__()
        if update_max_loss_branch and (random_drop_branches or classification is None):
            raise ValueError("update_max_loss_branch needs a classification loss and no random_drop_branches")
        self.classification = classification
        self.triplet = triplet
        self.distillation = distillation
        self.generated = generated
        self.triplet_on = tuple(triplet_on)
        self.random_drop_branches = random_drop_branches
        self.update_max_loss_branch = update_max_loss_branch
        self.gather_embeddings = gather_embeddings
        self.seed = seed

    def forward(
        self,
        output: Mapping[str, BranchOutput],
        labels: Tensor,
        step: int = 0,
        teacher: TeacherOutput | None = None,
        generated: OfGenerated | None = None,
    ) -> Losses:
        """Outputs of the branches, labels (B,) and, for distillation, the teacher's output -> losses of the step.

        Of `generated`, the images that a generator made, there may be none in a step.

        Within a branch the parts are summed for classification, as each trains a classifier of its own (Sun et al.
        2018, equation 2), and averaged for the triplet loss, whose margin is meant for one feature.

        Raises:
            ValueError: there is a distillation, but no teacher's output.
        """
        keep = self._updated_stripes(output, labels, step)
        output = _leave_stripes_out(output, keep)
        terms: dict[str, Tensor] = {}
        measures: dict[str, Tensor] = {}
        if self.classification is not None:
            for name, scores in _supervised(output):
                terms[f"softmax_{name}"] = self.classification(scores, labels, step).sum()
        for name, branch in output.items():
            if branch.spectral is not None:
                # A copy: the network's own memory may be used again before anybody reads it.
                measures[f"spectral_{name}_diagonal"] = branch.spectral.diagonal.detach().clone()
        if self.triplet is not None:
            compared = self._to_compare(labels, 0)
            for on in self.triplet_on:
                features = self._to_compare(_triplet_features(output, on), 1)
                terms[f"triplet_{on}"], found = self.triplet(features, compared)
                measures |= {f"triplet_{on}_{name}": value for name, value in found.items()}
        if self.distillation is not None:
            if teacher is None:
                raise ValueError("distillation is on, but there is no teacher's output")
            terms |= self.distillation(output, teacher)
        if generated is not None:
            if self.generated is None:
                raise ValueError("there are generated images, but no loss for them")
            sources = None if generated.sources is None else concat_embeddings(output)[generated.sources]
            of_generated = _leave_stripes_out(generated.output, keep)
            terms |= self.generated(of_generated, generated.labels, sources, step)
        return Losses(terms, measures)

    def _to_compare(self, values: Tensor, images: int) -> Tensor:
        """Labels or features of all images that triplets are formed of; `images` is the dimension they lie along."""
        return gathered(values, images) if self.gather_embeddings else values

    def _updated_stripes(self, output: Mapping[str, BranchOutput], labels: Tensor, step: int) -> Tensor | None:
        """(P,) bool, the stripes that this step updates; None: all of them."""
        if self.random_drop_branches:
            generator = torch.Generator(labels.device).manual_seed(seed_for(BRANCHES, self.seed, step))
            return draw_updated_parts(len(output[PARTS].features), self.random_drop_branches, generator)
        if self.update_max_loss_branch and self.classification is not None:
            with torch.no_grad():
                # The hardest of the whole batch, so that all processes update the same one.
                losses = mean_over_processes(self.classification(output[PARTS].scores, labels, step))
            return hardest_part(losses)
        return None


def build_criterion(
    options: LossOptions,
    *,
    random_drop_branches: int = 0,
    update_max_loss_branch: bool = False,
    embedding_dim: int = 0,
    teacher_dim: int = 0,
    seed: int = 0,
    generated_share: float = 0.0,
    lambda_consistency: float = 0.0,
) -> Criterion:
    """The losses that the params describe; the sizes are those of the network's and the teacher's embeddings.

    The random draws of a step follow from the seed and its number. `generated_share` is the number of generated images
    of a step divided by that of its real ones.
    """
    classification = triplet = distillation = None
    if options.tri_loss_lambda_cls:
        classification = SoftmaxLoss(
            options.tri_loss_lambda_cls,
            options.softmax_margin,
            options.softmax_margin_step,
            options.focal_gamma,
            options.label_smoothing,
        )
    if options.tri_loss_margin != 0 and options.tri_loss_lambda_tri:
        triplet = TripletLoss(options.tri_loss_lambda_tri, options.tri_loss_margin, options.tri_loss_adaptive_weight)
    taught = options.distillation
    if taught.lambda_logits or taught.lambda_embedding:
        weights = taught.lambda_logits, taught.lambda_embedding
        distillation = DistillationLoss(*weights, taught.temperature, embedding_dim, teacher_dim)
    generated = None
    if generated_share and classification is not None:
        generated = GeneratedLoss(classification, generated_share, lambda_consistency)
    return Criterion(
        classification,
        triplet,
        distillation,
        options.tri_loss_on,
        random_drop_branches,
        update_max_loss_branch,
        options.gather_embeddings,
        seed,
        generated,
    )


def _leave_stripes_out(output: Mapping[str, BranchOutput], keep: Tensor | None) -> Mapping[str, BranchOutput]:
    """The output with the gradient cut off from the stripes that are not to be kept, (P,) bool."""
    if keep is None:
        return output
    return {name: leave_out(branch, keep) if name == PARTS else branch for name, branch in output.items()}


def _supervised(output: Mapping[str, BranchOutput]) -> Iterator[tuple[str, ClassScores]]:
    """The scores of every branch, by name, and those of its spectral transform."""
    for name, branch in output.items():
        yield name, branch.scores
        if branch.spectral is not None:
            yield f"{name}_spectral", branch.spectral.scores


def _triplet_features(output: Mapping[str, BranchOutput], on: TripletFeature) -> Tensor:
    """(P, B, D) features that a triplet loss compares; one part of size P * D for "concat"."""
    if on == "global":
        return output[GLOBAL].features
    parts = output[PARTS].features
    return parts if on == "parts" else concat_parts([parts])[None]
