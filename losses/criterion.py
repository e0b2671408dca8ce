"""The criterion: a list of named losses, each computed from the same output of the network."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from losses.batch_metrics import BatchMetrics, ClassSources
from losses.branch_updates import RandomParts, detach_other_parts, hardest_of_batch
from losses.center import build_center
from losses.circle_pairs import build_circle_pairs
from losses.classification import build_classification
from losses.distillation import build_distillation
from losses.generated import GeneratedWeights, build_generated
from losses.loss import ClassificationLoss, GeneratedOutput, Loss, Losses, LossInputs, Need, OnScores, TeacherOutput
from losses.multi_similarity import build_multi_similarity
from losses.options import LossOptions
from losses.supervised_contrastive import build_supervised_contrastive
from losses.triplet import build_triplet
from models.options import ModelParams
from models.outputs import BranchOutput, NetworkSizes


class Criterion(nn.ModuleDict):
    """The losses of a training step, by name; `losses` and `metrics` keep their order.

    With several processes each has its part of the batch, and the losses of the whole are the mean of theirs.

    Args:
        losses: each with a name of its own.
        random_parts: draws the stripes that get a gradient from a step; None: all of them get one.
        choose_parts: inputs of a step -> (P,) bool, chooses them by their losses instead.
    """

    def __init__(
        self,
        losses: Sequence[Loss],
        random_parts: RandomParts | None = None,
        choose_parts: Callable[[LossInputs], Tensor] | None = None,
    ) -> None:
        super().__init__({loss.name: loss for loss in losses})
        if len(self) < len(losses):
            raise ValueError(f"losses must have different names, got {', '.join(loss.name for loss in losses)}")
        self.random_parts = random_parts
        self.choose_parts = choose_parts

    @property
    def needs(self) -> frozenset[Need]:
        """What any of the losses needs."""
        return frozenset(need for loss in self.values() for need in loss.needs)  # pyright: ignore[reportGeneralTypeIssues]

    @property
    def ratios(self) -> dict[str, str]:
        """Metrics whose means over batches are to be divided by that of another."""
        losses = (loss for loss in self.values() if isinstance(loss, Loss))
        return {name: share for loss in losses for name, share in loss.ratios.items()}

    @property
    def covers_network(self) -> bool:
        """Whether every step gives each parameter of the network a gradient."""
        return any(loss.covers_network for loss in self.values())

    def draw_parts(self, step: int) -> Tensor | None:
        """The stripes that a step updates, by its number: (P,) bool on the CPU; None: they are not drawn."""
        return None if self.random_parts is None else self.random_parts.draw(step)

    def forward(
        self,
        output: Mapping[str, BranchOutput],
        labels: Tensor,
        step: Tensor | None = None,
        teacher: TeacherOutput | None = None,
        generated: GeneratedOutput | None = None,
        updated_parts: Tensor | None = None,
        camids: Tensor | None = None,
    ) -> Losses:
        """All losses and metrics of a step.

        Args:
            output: of the network for the B real images.
            labels: (B,) int64.
            step: () int64, its number; None: 0.
            teacher: of the same images.
            generated: of the generated images; None in a step without.
            updated_parts: (P,) bool, what `draw_parts` returned for this step.
            camids: (B,) int64, the cameras.

        Raises:
            ValueError: a loss needs a teacher or cameras and there are none; generated images, but no loss for them;
                two losses that return the same name; stripes to update are not drawn.
        """
        needs = self.needs
        if teacher is None and "teacher" in needs:
            raise ValueError("distillation needs the output of a teacher")
        if camids is None and "cameras" in needs:
            raise ValueError("a loss needs the cameras of the images")
        if generated is not None and "generated" not in needs:
            raise ValueError("there are generated images, but no loss for them")
        if (self.random_parts is None) != (updated_parts is None):
            raise ValueError("updated_parts: pass what draw_parts returns")
        step = labels.new_zeros(()) if step is None else step
        inputs = LossInputs(output, labels, step, teacher, generated, camids)
        if self.choose_parts is not None:
            updated_parts = self.choose_parts(inputs)
        if updated_parts is not None:
            inputs = detach_other_parts(inputs, updated_parts)
        total = Losses({}, {})
        for loss in self.values():
            for collected, values in zip(total, loss(inputs), strict=True):
                if twice := collected.keys() & values.keys():
                    raise ValueError(f"two losses return {', '.join(sorted(twice))}")
                collected.update(values)
        return total


def build_criterion(
    options: LossOptions,
    model: ModelParams | None = None,
    *,
    sizes: NetworkSizes | None = None,
    teacher_dim: int = 0,
    generated: GeneratedWeights | None = None,
    clusters: Loss | None = None,
    sources: ClassSources | None = None,
    seed: int = 0,
) -> Criterion:
    """The losses that the params describe.

    Args:
        options: of the losses.
        model: of the network; says which stripes a step updates, and what retrieval compares. None: all, embeddings.
        sizes: of the network, for losses with parameters.
        teacher_dim: size of the teacher's embedding.
        generated: weights of generated images; None: there are none.
        clusters: the loss of a training without labels.
        sources: the data sets that the classes are of, for metrics of each; None: of one, or not measured apart.
        seed: of the run; random draws follow from it and the number of the step.
    """
    classification, weights = build_classification(options), options.classification_weights
    retrieval_of = "embeddings" if model is None else model.retrieval_of
    losses: list[Loss | None] = [
        BatchMetrics(None if classification is None else sources) if sizes is None or sizes.num_classes else None,
        None if classification is None else OnScores(options.classification_loss, classification, weights),
        build_triplet(options),
        build_circle_pairs(options),
        build_multi_similarity(options),
        build_supervised_contrastive(options),
        build_center(options.center_loss, sizes),
        build_distillation(options.distillation, sizes, teacher_dim, retrieval_of),
        build_generated(classification, generated, weights, retrieval_of),
        clusters,
    ]
    return Criterion([loss for loss in losses if loss is not None], *_part_updates(model, classification, seed))


def _part_updates(
    model: ModelParams | None, classification: ClassificationLoss | None, seed: int
) -> tuple[RandomParts | None, Callable[[LossInputs], Tensor] | None]:
    """How `model_params` says which stripes a step updates: drawn, or chosen by their losses; neither: all.

    Raises:
        ValueError: both, or chosen by a classification loss that is off.
    """
    if model is None:
        return None, None
    drawn = RandomParts(model.pcb_n_parts, model.random_drop_branches, seed) if model.random_drop_branches else None
    if not model.update_max_loss_branch:
        return drawn, None
    if drawn is not None or classification is None:
        raise ValueError("update_max_loss_branch needs a classification loss and no random_drop_branches")
    return None, partial(hardest_of_batch, classification)
