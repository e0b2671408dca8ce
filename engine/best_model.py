"""model_best.pth: which model of a run is the best, and that it gets to the disk."""

import logging

from engine.run_folder import RunFolder
from engine.training import Training
from evaluate.core.plugins import Evaluation
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.distributed import this_process
from utils.errors import DataError

logger = logging.getLogger(__name__)


class BestModel:
    """Keeps the model with the highest score of a run; with evaluation off, the last one.

    A model that cannot be written, as the disk is full, is kept in memory and tried again with every later one; the
    score that a saved state remembers is always that of the file. Only the first process writes.
    """

    def __init__(self, training: Training, folder: RunFolder) -> None:
        self.training = training
        self.path = folder.best
        self._waiting: tuple[float | None, Checkpoint] | None = None

    def offer(self, evaluation: Evaluation | None) -> None:
        """Keep the model as it is now if it is better than every one before.

        Args:
            evaluation: of the model; None where none was due, or evaluation is off.
        """
        if not this_process().is_main:
            return
        training = self.training
        evaluating = training.params.evaluation_params.type is not None
        if not evaluating or (evaluation is not None and self._is_better(evaluation.score)):
            model = {name: tensor.detach().cpu().clone() for name, tensor in training.network.state_dict().items()}
            params = training.params.model_dump(mode="json")
            metrics = {} if evaluation is None else evaluation.metrics
            score = None if evaluation is None else evaluation.score
            self._waiting = score, Checkpoint(model, params, training.pids, metrics)
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
