"""Losses and metrics of the steps of an epoch, kept on the device until they are read, and the time that steps take."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losses.loss import Losses
from utils.collectives import stacked


class Means(NamedTuple):
    """Means of a number of batches, over all processes."""

    losses: dict[str, float]
    metrics: dict[str, float]


class StepValues(NamedTuple):
    """One step, once its values are read."""

    number: int
    """Counted from 0 over the whole training."""
    is_finite: bool
    """Whether it was applied."""
    losses: dict[str, float]
    """Means over its batches and all processes; not finite where one of them was not."""
    bad_images: list[int]
    """Of a step that was not applied: the training images of those batches whose losses were not finite, or, where all
    losses were and only the gradient was not, of all its batches."""
    silent: tuple[str, ...] | None
    """Branches of which every gradient was zero; None where the step was not watched for them."""


class _Pending(NamedTuple):
    """A step whose values lie on the device."""

    number: int
    images: Sequence[Sequence[int]]
    """Of each batch, over all processes."""
    values: Tensor
    """(batches, losses and metrics)"""
    finite: Tensor
    silent: dict[str, Tensor]


class Meter:
    """Means of losses and metrics, since the last reading and over the epoch.

    `add` leaves everything on the device; `collect` waits for it, and brings along what the other processes have. When
    that happens does not change any mean: every batch is added on its own, in order.
    """

    def __init__(self) -> None:
        self.ratios: Mapping[str, str] = {}
        """Metrics whose mean is divided by that of another, which is NaN where that is 0."""
        self._pending: list[_Pending] = []
        self._names: list[str] = []
        self._num_losses = 0
        self._recent: list[list[float]] = []
        self._sums: list[float] = []
        self._count = 0

    def add(
        self,
        number: int,
        images: Sequence[Sequence[int]],
        values: Sequence[Losses],
        finite: Tensor,
        silent: dict[str, Tensor],
    ) -> None:
        """Take in a step; the names of its losses and metrics are always the same.

        Args:
            number: of the step, from 0.
            images: of each of its batches over all processes, as indices of training images.
            values: of each of its batches, scalars on the device.
            finite: () bool, whether it was applied.
            silent: () bool of each branch, or empty.
        """
        self._names = [*values[0].losses, *values[0].metrics]
        self._num_losses = len(values[0].losses)
        rows = [torch.stack([*batch.losses.values(), *batch.metrics.values()]) for batch in values]
        self._pending.append(_Pending(number, images, torch.stack(rows), finite, silent))

    def collect(self) -> list[StepValues]:
        """The steps added since the last time, in order; every process must call this, and all get the same."""
        if not self._pending:
            return []
        pending, self._pending = self._pending, []
        # (processes, batches, losses and metrics), in one transfer each.
        values = stacked(torch.cat([step.values for step in pending]).double()).tolist()
        finite = torch.stack([step.finite for step in pending]).tolist()
        flags = iter(_flags([flag for step in pending for flag in step.silent.values()]))
        found, first = [], 0
        for step, is_finite in zip(pending, finite, strict=True):
            last = first + len(step.images)
            # By batch, then by process.
            rows = list(zip(*(process[first:last] for process in values), strict=True))
            silent = tuple(name for name in step.silent if next(flags)) if step.silent else None
            found.append(self._taken(step, is_finite, rows, silent))
            first = last
        return found

    def read(self) -> Means:
        """Means of the batches collected since the last reading, those of steps that were not applied left out.

        Without names where there are none.
        """
        recent, self._recent = self._recent, []
        sums = [math.fsum(column) for column in zip(*recent, strict=True)]
        return self._parted(sums, len(recent))

    def means(self) -> Means:
        """Means of all batches collected since the epoch began; without names where there are none."""
        return self._parted(self._sums, self._count)

    def begin_epoch(self) -> None:
        """Forget the epoch before."""
        self._pending, self._recent, self._sums, self._count = [], [], [], 0

    def state_dict(self) -> dict[str, Any]:
        """What was collected, as plain values."""
        if self._pending:
            raise ValueError("steps that are not collected would be lost")
        return {
            "names": self._names,
            "num_losses": self._num_losses,
            "recent": self._recent,
            "sums": self._sums,
            "count": self._count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._pending = []
        self._names, self._num_losses = list(state_dict["names"]), state_dict["num_losses"]
        self._recent = [list(row) for row in state_dict["recent"]]
        self._sums, self._count = list(state_dict["sums"]), state_dict["count"]

    def _taken(
        self, step: _Pending, is_finite: bool, rows: list[tuple[list[float], ...]], silent: tuple[str, ...] | None
    ) -> StepValues:
        """One step's values; adds them to the means if it was applied."""
        means = [[sum(column) / len(row) for column in zip(*row, strict=True)] for row in rows]
        of_step = [sum(column) / len(means) for column in zip(*means, strict=True)]
        losses = dict(zip(self._names, of_step[: self._num_losses], strict=False))
        if not is_finite:
            return StepValues(step.number, False, losses, self._bad_images(step, rows), silent)
        for row in means:
            self._recent.append(row)
            self._sums = [total + value for total, value in zip(self._sums or [0.0] * len(row), row, strict=True)]
            self._count += 1
        return StepValues(step.number, True, losses, [], silent)

    def _bad_images(self, step: _Pending, rows: list[tuple[list[float], ...]]) -> list[int]:
        """The images of the processes' batches whose losses are not finite; of all if every loss is."""
        suspects = []
        for images, row in zip(step.images, rows, strict=True):
            for rank, values in enumerate(row):
                if not all(map(math.isfinite, values[: self._num_losses])):
                    suspects += images[len(images) * rank // len(row) : len(images) * (rank + 1) // len(row)]
        return suspects or [image for images in step.images for image in images]

    def _parted(self, sums: list[float], count: int) -> Means:
        means = {name: value / count for name, value in zip(self._names, sums, strict=False)} if count else {}
        losses = {name: means.pop(name) for name in self._names[: self._num_losses] if name in means}
        for name, share in self.ratios.items():
            if name in means:
                means[name] = means[name] / means[share] if means[share] else math.nan
        return Means(losses, means)


def _flags(flags: Sequence[Tensor]) -> list[bool]:
    return torch.stack(list(flags)).tolist() if flags else []


class StepClock:
    """The time that the steps of an epoch take.

    The first step of a process is not typical: it compiles the network and searches for the fastest convolutions. It
    counts in `seconds`, but in the speed only where the epoch has no other.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._steps = 0
        self._typical_seconds = 0.0
        self._typical_steps = 0
        self._is_first = True
        self._last = 0.0

    @property
    def steps_per_second(self) -> float:
        """Of this epoch's steps so far, of which there must be one."""
        if self._typical_steps:
            return self._typical_steps / self._typical_seconds
        return self._steps / self.seconds

    def begin_epoch(self) -> None:
        """Forget the epoch before."""
        self.seconds, self._steps, self._typical_seconds, self._typical_steps = 0.0, 0, 0.0, 0

    def start(self) -> None:
        """The first remaining step begins."""
        self._last = time.monotonic()

    def end_step(self) -> None:
        """A step ends, and the next one begins."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        self.seconds += elapsed
        self._steps += 1
        if not self._is_first:
            self._typical_seconds += elapsed
            self._typical_steps += 1
        self._is_first = False

    def state_dict(self) -> dict[str, Any]:
        """What was measured, as plain values."""
        return {
            "seconds": self.seconds,
            "steps": self._steps,
            "typical_seconds": self._typical_seconds,
            "typical_steps": self._typical_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.seconds, self._steps = state_dict["seconds"], state_dict["steps"]
        self._typical_seconds, self._typical_steps = state_dict["typical_seconds"], state_dict["typical_steps"]
