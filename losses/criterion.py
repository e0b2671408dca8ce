"""The criterion: a list of named losses, each computed from the same output of the network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from losses.batch_metrics import BatchMetrics
from losses.branch_updates import ChooseParts, build_part_choice, detach_other_parts
from losses.distillation import build_distillation
from losses.generated import GeneratedWeights, build_generated
from losses.loss import GeneratedOutput, Loss, Losses, LossInputs, OnScores, TeacherOutput
from losses.options import LossOptions
from losses.softmax import build_softmax
from losses.triplet import build_triplet
from models.options import ModelParams
from models.outputs import BranchOutput, NetworkSizes


class Criterion(nn.ModuleDict):
    """The losses of a training step, by name; `losses` and `metrics` keep their order.

    With several processes each has its part of the batch, and the losses of the whole are the mean of theirs.

    Args:
        losses: each with a name of its own.
        choose_parts: the stripes that get a gradient from a step; None: all of them.
    """

    def __init__(self, losses: Sequence[Loss], choose_parts: ChooseParts | None = None) -> None:
        super().__init__({loss.name: loss for loss in losses})
        if len(self) < len(losses):
            raise ValueError(f"losses must have different names, got {', '.join(loss.name for loss in losses)}")
        self.choose_parts = choose_parts

    @property
    def needs(self) -> frozenset[str]:
        """What any of the losses needs."""
        return frozenset().union(*(loss.needs for loss in self.values()))  # pyright: ignore[reportArgumentType]

    @property
    def covers_network(self) -> bool:
        """Whether every step gives each parameter of the network a gradient."""
        return any(loss.covers_network for loss in self.values())

    def forward(
        self,
        output: Mapping[str, BranchOutput],
        labels: Tensor,
        step: int = 0,
        teacher: TeacherOutput | None = None,
        generated: GeneratedOutput | None = None,
    ) -> Losses:
        """All losses and metrics of a step.

        Args:
            output: of the network for the B real images.
            labels: (B,) int64.
            step: number of the step.
            teacher: of the same images.
            generated: of the generated images; None in a step without.

        Raises:
            ValueError: a loss needs a teacher and there is none; generated images, but no loss for them; two losses
                that return the same name.
        """
        if teacher is None and "teacher" in self.needs:
            raise ValueError("distillation needs the output of a teacher")
        if generated is not None and "generated" not in self.needs:
            raise ValueError("there are generated images, but no loss for them")
        inputs = LossInputs(output, labels, step, teacher, generated)
        if self.choose_parts is not None:
            inputs = detach_other_parts(inputs, self.choose_parts(inputs))
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
    seed: int = 0,
) -> Criterion:
    """The losses that the params describe.

    Args:
        options: of the losses.
        model: of the network; says which stripes a step updates. None: all.
        sizes: of the network, for losses with parameters.
        teacher_dim: size of the teacher's embedding.
        generated: weights of generated images; None: there are none.
        seed: of the run; random draws follow from it and the number of the step.
    """
    classification = build_softmax(options)
    losses: list[Loss | None] = [
        BatchMetrics(),
        None if classification is None else OnScores("softmax", classification),
        build_triplet(options),
        build_distillation(options.distillation, sizes, teacher_dim),
        build_generated(classification, generated),
    ]
    choose_parts = None if model is None else build_part_choice(model, classification, seed)
    return Criterion([loss for loss in losses if loss is not None], choose_parts)
