"""What is known of a run before its trainer is built."""

from typing import Any, NamedTuple

import torch

from config.params import Params
from engine.run_folder import RunFolder


class TrainingPlan(NamedTuple):
    """The arithmetic of a training."""

    num_epochs: int
    steps_per_epoch: int
    """The same in every epoch."""
    images_per_step: int
    """Of all batches and all processes."""
    evaluate_every: int
    """Epochs from one evaluation to the next, the last epoch always has one; 0 = no evaluation."""
    evaluate_at_start: bool
    """Whether the untrained network is evaluated."""
    memory_use: str
    """What a step holds in memory, for the message that it was too much."""
    memory_advice: str
    """What to lower then."""


class Run(NamedTuple):
    """One run."""

    params: Params
    folder: RunFolder
    """Locked by this run."""
    device: torch.device
    """Of this process."""
    plan: TrainingPlan
    fingerprint: dict[str, Any]
    """Data, settings and environment; a saved state is only resumed with an equal one."""
