"""The interface of a loss: what it receives from a training step and what it returns.

A new loss is a module in a file of its own and a line in `losses.criterion.build_criterion`. One that compares
features (triplet, center, ...) is wrapped by `OnFeatures`, one of class scores (softmax, ...) by `OnScores`; any other
subclasses `Loss`. Parameters of a loss are trained with those of the network's heads.

Losses are compiled together with the network: shapes and settings may decide what they compute, values may not. What a
step draws is drawn before.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from losses.options import MetricFeature
from models.outputs import (
    GLOBAL,
    PARTS,
    PENULTIMATE,
    BranchOutput,
    ClassScores,
    FeatureKind,
    concat_parts,
    concat_scores,
)
from utils.collectives import gathered

CONCAT = "concat"
"""Start of the names of the features that are all parts of a branch, instead of `PARTS`."""
Need = Literal["teacher", "generated", "cameras"]
"""Inputs that only some trainings have."""


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
    step: Tensor
    """() int64, the number of the training step, for schedules; a tensor, so that compiled code serves every step."""
    teacher: TeacherOutput | None
    """None without distillation."""
    generated: GeneratedOutput | None
    """None in a step without generated images."""
    camids: Tensor | None = None
    """(B,) int64, the cameras; None where nothing asks for them."""


class Loss(nn.Module):
    """Base class of the entries of a criterion.

    Args:
        name: key in the criterion, and prefix of its parameters' names in saved states.
        needs: inputs without which it cannot be used.
        covers_network: whether in every step each parameter of the network gets a gradient from this loss alone, as
            from one of all class scores. If no loss does, DistributedDataParallel searches for unused parameters in
            every step, which is slower.
    """

    def __init__(self, name: str, needs: Iterable[Need] = (), *, covers_network: bool = False) -> None:
        super().__init__()
        self.name = name
        self.needs = frozenset(needs)
        self.ratios: dict[str, str] = {}
        """Metrics that are of some images of a batch only, by the metric that is the share of these."""
        self.covers_network = covers_network

    def forward(self, inputs: LossInputs) -> Losses:
        """Weighted scalars and metrics, under names that no other loss uses."""
        raise NotImplementedError


class ClassificationLoss(nn.Module):
    """Base class of the losses of class scores.

    Args:
        weight: of the loss, already applied to its values.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, scores: ClassScores, labels: Tensor, step: Tensor) -> Tensor:
        """Scores of (P, B, N), labels (B,) and the step, () int64 -> weighted mean over the batch, (P,)."""
        raise NotImplementedError


class Remembering(nn.Module):
    """Base class of modules of a loss that keep something in a buffer from one step to the next.

    `forward` leaves it as it is: a compiled backward pass may read it again. It is the same in all processes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overwritten: list[tuple[Tensor | slice, Tensor]] = []

    def changes(self) -> tuple[Tensor, Tensor | slice, Tensor]:
        """The buffer, the rows of it that the batch changes, and their new values; equal rows have equal values."""
        raise NotImplementedError

    def remember(self) -> None:
        """Change the buffer; called once after the backward pass of each batch, and `keep_if` after those of a step."""
        buffer, rows, values = self.changes()
        self._overwritten.append((rows, buffer[rows].clone()))
        buffer[rows] = values

    def keep_if(self, finite: Tensor) -> None:
        """Undo the changes since the last call unless `finite`, a () bool on the device; does not wait for the device.

        Only rows that were overwritten are copied: a memory of all images may take gigabytes.
        """
        for rows, before in reversed(self._overwritten):
            buffer = self.changes()[0]
            buffer[rows] = torch.where(finite, buffer[rows], before)
        self._overwritten.clear()


class OnScores(Loss):
    """Applies a classification loss to the class scores of every branch and of its spectral transform.

    The parts of a branch are summed, as each trains a classifier of its own (Sun et al. 2018, equation 2).

    Args:
        name: the losses are called `name_branch`.
        loss: of one branch.
        weights: factors of the loss of a branch and of its spectral transform, by the branch's name; 1 for the others.
    """

    def __init__(self, name: str, loss: ClassificationLoss, weights: Mapping[str, float] = {}) -> None:
        super().__init__(name, covers_network=True)
        self.loss = loss
        self.weights = dict(weights)

    def forward(self, inputs: LossInputs) -> Losses:
        """One loss for each branch.

        Raises:
            ValueError: a weight of a branch that the network does not have.
        """
        if unknown := self.weights.keys() - inputs.output.keys():
            raise ValueError(f"{self.name}: weights of {', '.join(sorted(unknown))}, but no such branch")
        scores: dict[str, ClassScores] = {}
        weights: list[float] = []
        for branch, output in inputs.output.items():
            of_branch = {"": output.scores, "_spectral": output.spectral and output.spectral.scores}
            for suffix, found in of_branch.items():
                if found is not None:
                    scores[f"{self.name}_{branch}{suffix}"] = found
                    weights.append(self.weights.get(branch, 1.0))
        # The parts of all branches at once: as many kernels as for one branch.
        values = self.loss(concat_scores(list(scores.values())), inputs.labels, inputs.step)
        parts = values.split([len(found.logits) for found in scores.values()])
        sums = [part.sum() if weight == 1 else weight * part.sum() for part, weight in zip(parts, weights, strict=True)]
        return Losses(dict(zip(scores, sums, strict=True)), {})


class OnFeatures(Loss):
    """Applies a metric loss to each of the chosen features.

    The loss averages over the parts of a feature, as its margin is meant for one feature.

    Args:
        name: the losses are called `name_feature`, the metrics `name_feature_metric`.
        losses: for each feature a module (features (P, B, D), labels (B,), step ()) -> weighted scalar, metrics.
            A loss without parameters can be the same module for all.
        gather: compare the images of all processes, of which each has as many; otherwise each process compares its own.
            With gathering the values are the same in all processes.
        of: what it compares, before ("features") or after ("embeddings") the neck.
        weights: factors of the loss of a feature; 1 for the others.

    Raises:
        ValueError: a weight of a feature without the loss.
    """

    def __init__(
        self,
        name: str,
        losses: Mapping[MetricFeature, nn.Module],
        gather: bool = False,
        of: FeatureKind = "features",
        weights: Mapping[str, float] = {},
    ) -> None:
        super().__init__(name)
        if unknown := weights.keys() - losses.keys():
            raise ValueError(f"{name}: weights of {', '.join(sorted(unknown))}, but no such loss")
        self.losses = nn.ModuleDict({**losses})
        self.features = tuple(losses)
        self.gather = gather
        self.of: FeatureKind = of
        self.weights = dict(weights)

    def forward(self, inputs: LossInputs) -> Losses:
        """One loss for each feature, and its metrics."""
        labels = gathered(inputs.labels, 0) if self.gather else inputs.labels
        result = Losses({}, {})
        for key in self.features:
            features = select_features(inputs.output, key, self.of)
            features = gathered(features, 1) if self.gather else features
            value, metrics = self.losses[key](features, labels, inputs.step)
            weight = self.weights.get(key, 1.0)
            result.losses[f"{self.name}_{key}"] = value if weight == 1 else weight * value
            result.metrics.update({f"{self.name}_{key}_{metric}": value for metric, value in metrics.items()})
        return result


def branch_of(feature: MetricFeature) -> str:
    """Name of the branch that a feature is of."""
    return GLOBAL if feature == PENULTIMATE else feature.replace(CONCAT, PARTS)


def select_features(output: Mapping[str, BranchOutput], feature: MetricFeature, of: FeatureKind) -> Tensor:
    """(P, B, D) features or embeddings of a branch; for "concat" those of all parts as one: (1, B, P * D)."""
    parts = getattr(output[branch_of(feature)], PENULTIMATE if feature == PENULTIMATE else of)
    return concat_parts([parts])[None] if feature.startswith(CONCAT) else parts
