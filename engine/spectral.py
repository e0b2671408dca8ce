"""When the spectral transform acts: from an epoch and a training accuracy on that the params name."""

import logging
from typing import Any

from models.options import ModelParams

logger = logging.getLogger(__name__)


class SpectralStart:
    """Follows the training accuracy, and says from when on the spectral transform acts.

    Args:
        options: of the network; without `spectral_trans` it never acts.
    """

    def __init__(self, options: ModelParams) -> None:
        self.options = options
        self.best_accuracy = 0.0
        """Highest training accuracy of an epoch."""
        self.first_epoch: int | None = None
        """The epoch from which on it acts; None: it does not yet."""

    @property
    def acts(self) -> bool:
        """Whether it acts in the current epoch."""
        return self.first_epoch is not None

    def begin_epoch(self, epoch: int) -> None:
        """Decide for an epoch, counted from 0; logs when it begins to act."""
        options = self.options
        is_due = epoch >= options.spectral_start_epoch and self.best_accuracy >= options.spectral_start_accuracy
        if options.spectral_trans and is_due and not self.acts:
            self.first_epoch = epoch
            logger.info("the spectral transform acts from epoch %d on", epoch + 1)

    def end_epoch(self, accuracy: float) -> None:
        """Take in the training accuracy of an epoch."""
        self.best_accuracy = max(self.best_accuracy, accuracy)

    def warn_if_unused(self) -> None:
        """Called after the last epoch."""
        if self.options.spectral_trans and not self.acts:
            logger.warning(
                "the spectral transform never acted: it was to start after epoch %d at a training accuracy of %g, and "
                "accuracy reached %.3f",
                self.options.spectral_start_epoch,
                self.options.spectral_start_accuracy,
                self.best_accuracy,
            )

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"best_accuracy": self.best_accuracy, "first_epoch": self.first_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.best_accuracy, self.first_epoch = state_dict["best_accuracy"], state_dict["first_epoch"]
