"""What training knows of an evaluation; everything else is declared by the plug-in named in `type`."""

from typing import ClassVar

from pydantic import Field

from utils.options import Options


class EvaluationParams(Options):
    """The keys every plug-in shares. A plug-in's own `Options` class inherits from this one and adds its keys."""

    has_training_classes: ClassVar[bool] = False
    """Whether it measures how images of the training identities are classified, and so on one data set only."""
    type: str | None = None
    """Plug-in: the name of a file in evaluate/ without ".py"; null = no evaluation."""
    every_epochs: int = Field(default=1, ge=1)
    """Epochs between evaluations; the last epoch is always evaluated."""
    at_start: bool = True
    """Also evaluate before training, so that a mistake in the test set shows before the first epoch."""
    score_of: str = ""
    """Of several test sets, the one whose score keeps the best model, by its name in the log; "" = the mean of all."""
    batch_size: int = Field(default=128, ge=1)
    """Images per batch."""
    same_cameras: bool | None = None
    """Cameras have the numbers of the training set, for camera_embedding; null = on the batches_dir of the training."""

    def data_set(self, batches_dir: str) -> str:
        """Name of what is measured; a plug-in with data of its own names these instead of `batches_dir`."""
        return batches_dir
