"""What every training is that can be stopped after any step and gone on with: where it stands, and its state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.params import Params
from engine.belonging import check_belonging
from engine.meter import Meter
from utils.checkpoint import load_tensors
from utils.distributed import fail_together
from utils.errors import DataError

COUNTERS = ("epoch", "step", "seconds", "best_score", "records")
"""Plain values of a training that its state holds under their own names."""


@dataclass(kw_only=True)
class Resumable(ABC):
    """A training under way. Counters and best values change by assignment; the rest is built once."""

    params: Params
    device: torch.device
    num_epochs: int
    steps_per_epoch: int
    """The same in every epoch."""
    belongs_to: dict[str, Any]
    """What a state of this run belongs to."""
    meter: Meter = field(default_factory=Meter)
    """Losses and measures of the epoch under way."""
    epoch: int = field(default=0)
    """Epochs done, each with its evaluation."""
    step: int = field(default=0)
    """Steps done."""
    seconds: float = field(default=0.0)
    """Time that the steps of the epoch under way have taken."""
    best_score: float | None = field(default=None)
    """Score of the model that is kept; None while no evaluation has chosen one."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """What metrics.jsonl says of each epoch."""

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, after any step; every process must call this.

        There are no states of random generators in it: whatever is drawn follows from the seed and the step, the order
        of the images from the seed and the epoch. The meter must have been read.
        """
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {"belongs_to": self.belongs_to, **self.parts(), "meter": self.meter.state(), **counters}

    def restore(self, path: Path) -> None:
        """Go on from a saved state; every process must call this.

        Raises:
            DataError: the file is missing or damaged, or belongs to other data, settings or means.
        """
        with fail_together():
            state = load_tensors(path)
            if not (
                isinstance(state, dict) and isinstance(state.get("belongs_to"), dict) and {*COUNTERS} <= state.keys()
            ):
                raise DataError(f"{path}: not the state of a training; the run cannot go on from it")
            check_belonging(path, state["belongs_to"], self.belongs_to)
            try:
                self.restore_parts(state)
                self.meter.restore(state["meter"])
                for name in COUNTERS:
                    setattr(self, name, state[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise DataError(f"{path}: its state does not fit this run ({reason})") from error

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What is in the state besides the counters: tensors, plain values, and dicts and lists of these."""

    @abstractmethod
    def restore_parts(self, state: dict[str, Any]) -> None:
        """Take over what `parts` gave; raises whatever kind of error a state that does not fit leads to."""

    @abstractmethod
    def updated_tensors(self) -> Sequence[Tensor]:
        """The tensors of the state that only the updates of the weights change."""
