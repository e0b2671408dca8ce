"""Which model of a run is the best, and that it gets to the disk."""

import logging
from collections.abc import Callable
from pathlib import Path

from engine.resumable import Resumable
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.distributed import this_process
from utils.errors import DataError

logger = logging.getLogger(__name__)


class BestModel:
    """Keeps the model with the highest score of a run; with evaluation off, the last one.

    A model that cannot be written, as the disk is full, is kept in memory and tried again with every later one; the
    score that a saved state remembers is always that of the file. Only the first process writes.
    """

    def __init__(self, training: Resumable, path: Path) -> None:
        self.training = training
        self.path = path
        self._waiting: tuple[float | None, Checkpoint] | None = None

    def offer(self, score: float | None, checkpoint: Callable[[], Checkpoint]) -> None:
        """Keep a model if it is better than every one before.

        Args:
            score: of the model, the higher the better; None: nothing is measured, and the last one is kept.
            checkpoint: makes what is kept of it, with memory of its own.
        """
        if this_process().is_rank_zero and (score is None or self._is_better(score)):
            self._waiting = score, checkpoint()
        self.try_again()

    def try_again(self) -> None:
        """Write the model that still waits to be written, if there is one and it can be."""
        try:
            self.settle()
        except DataError as error:
            logger.warning("%s; training goes on, and the model is kept in memory until there is room", error)

    def settle(self) -> None:
        """Write the model that is still to be written, if there is one.

        Raises:
            DataError: it cannot be.
        """
        if self._waiting is not None:
            score, checkpoint = self._waiting
            save_checkpoint(self.path, checkpoint)
            self._waiting = None
            self.training.best_score = score

    def _is_better(self, score: float) -> bool:
        """Than the file's model and one that waits; a tie keeps the earlier."""
        scores = (self.training.best_score, self._waiting and self._waiting[0])
        return all(score > other for other in scores if other is not None)
