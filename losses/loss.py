"""The interface of a loss: what it receives from a training step and what it returns.

A new loss is a module in a file of its own and a line in `losses.criterion.build_criterion`. One that compares
features (triplet, center, ...) is wrapped by `OnFeatures`, one of class scores (softmax, ...) by `OnScores`; any other
subclasses `Loss`. Parameters of a loss are trained with those of the network's heads.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from torch import Tensor, nn

from losses.options import MetricFeature
from models.outputs import GLOBAL, PARTS, BranchOutput, ClassScores, concat_parts
from utils.collectives import gathered

Need = Literal["scores", "features", "embeddings", "teacher", "generated"]


class Losses(NamedTuple):
    """Scalars of a step, by name."""

    losses: dict[str, Tensor]
    """Weighted; training minimises their sum."""
    metrics: dict[str, Tensor]
    """For the log only, without gradient."""


class TeacherOutput(NamedTuple):
    """Output of a frozen teacher for the images of a step."""

    embeddings: Tensor
    """(B, D_t), as retrieval compares them."""
    logits: Tensor
    """(B, N), class scores of the whole network."""


class GeneratedOutput(NamedTuple):
    """Output of the network for the generated images of a step, and the identities they show."""

    output: Mapping[str, BranchOutput]
    """Of M images."""
    labels: Tensor | None
    """(M,) int64; None: they show no identity."""
    sources: Tensor | None
    """(M,) int64: the real images of the batch that they were generated from; None: from none."""


class LossInputs(NamedTuple):
    """What losses are computed from. With several processes each has its part of the batch."""

    output: Mapping[str, BranchOutput]
    """Of B images."""
    labels: Tensor
    """(B,) int64."""
    step: int
    """Number of the training step, for schedules and random draws."""
    teacher: TeacherOutput | None
    """None without distillation."""
    generated: GeneratedOutput | None
    """None in a step without generated images."""


class Loss(nn.Module):
    """Base class of the entries of a criterion.

    Args:
        name: key in the criterion, and prefix of its parameters' names in saved states.
        needs: the inputs it uses. "scores": those of every branch, so that each classifier gets a gradient.
    """

    def __init__(self, name: str, needs: Iterable[Need] = ()) -> None:
        super().__init__()
        self.name = name
        self.needs = frozenset(needs)

    def forward(self, inputs: LossInputs) -> Losses:
        """Weighted scalars and metrics, under names that no other loss uses."""
        raise NotImplementedError


class OnScores(Loss):
    """Applies a classification loss to the class scores of every branch and of its spectral transform.

    The parts of a branch are summed, as each trains a classifier of its own (Sun et al. 2018, equation 2).

    Args:
        name: the losses are called `name_branch`.
        loss: (scores of (P, B, N), labels (B,), step) -> weighted mean over the batch, (P,).
    """

    def __init__(self, name: str, loss: nn.Module) -> None:
        super().__init__(name, ["scores"])
        self.loss = loss

    def forward(self, inputs: LossInputs) -> Losses:
        """One loss for each branch."""
        scores = _scores_by_name(inputs.output)
        return Losses({f"{self.name}_{key}": self.loss(of, inputs.labels, inputs.step).sum() for key, of in scores}, {})


class OnFeatures(Loss):
    """Applies a metric loss to each of the chosen features.

    The loss averages over the parts of a feature, as its margin is meant for one feature.

    Args:
        name: the losses are called `name_feature`, the metrics `name_feature_metric`.
        losses: for each feature a module (features (P, B, D), labels (B,)) -> weighted scalar, metrics by name. A loss
            without parameters can be the same module for all.
        gather: compare the images of all processes, of which each has as many; otherwise each process compares its own.
            With gathering the values are the same in all processes.
    """

    def __init__(self, name: str, losses: Mapping[MetricFeature, nn.Module], gather: bool = False) -> None:
        super().__init__(name, ["features"])
        self.losses = nn.ModuleDict({**losses})
        self.features = tuple(losses)
        self.gather = gather

    def forward(self, inputs: LossInputs) -> Losses:
        """One loss for each feature, and its metrics."""
        labels = gathered(inputs.labels, 0) if self.gather else inputs.labels
        result = Losses({}, {})
        for key in self.features:
            features = select_features(inputs.output, key)
            features = gathered(features, 1) if self.gather else features
            result.losses[f"{self.name}_{key}"], metrics = self.losses[key](features, labels)
            result.metrics.update({f"{self.name}_{key}_{metric}": value for metric, value in metrics.items()})
        return result


def select_features(output: Mapping[str, BranchOutput], feature: MetricFeature) -> Tensor:
    """(P, B, D) features before normalisation; for "concat" those of all parts as one: (1, B, P * D)."""
    if feature == "global":
        return output[GLOBAL].features
    parts = output[PARTS].features
    return parts if feature == "parts" else concat_parts([parts])[None]


def _scores_by_name(output: Mapping[str, BranchOutput]) -> Iterator[tuple[str, ClassScores]]:
    """The scores of every branch, and those of its spectral transform."""
    for name, branch in output.items():
        yield name, branch.scores
        if branch.spectral is not None:
            yield f"{name}_spectral", branch.spectral.scores
