"""Writes what happens in a run: curves and images into sinks, and metrics.jsonl."""

import json
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from data.augmentation.normalisation import denormalise
from engine.run_folder import RunFolder
from engine.sinks import Sink, TensorBoard
from evaluate.core.plugins import Evaluation
from utils.distributed import this_process
from utils.errors import DataError
from utils.files import write_text

logger = logging.getLogger(__name__)


class Recorder:
    """Curves and images for TensorBoard, one JSON line per epoch. What cannot be written stops no training.

    Args:
        folder: the run's folder; of several processes only rank 0 writes into it.
        purge_step: of a resumed run: TensorBoard hides what was recorded at this step or later, as it is recorded
            again. None for a new run.
        sinks: where curves and images go besides TensorBoard.
    """

    def __init__(self, folder: RunFolder, purge_step: int | None = None, sinks: Sequence[Sink] = ()) -> None:
        self.writes = this_process().is_rank_zero
        self.sinks: list[Sink] = [TensorBoard(folder.path, purge_step), *sinks] if self.writes else []
        self.metrics = folder.metrics
        self._lines: list[str] = []
        self._is_written = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sink in self.sinks:
            sink.close()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """One curve per value, under group/name."""
        tagged = {f"{group}/{name}": value for name, value in values.items()}
        for sink in self.sinks:
            sink.scalars(tagged, step)

    def batch(self, pixels: Tensor, normalisation: Any, step: int, most: int = 32) -> None:
        """A grid of the first augmented images as the network sees them; pixels (B, 3, H, W), normalised."""
        self.images("train/batch", denormalise(pixels[:most], normalisation).cpu(), step)

    def images(self, name: str, images: Tensor, step: int) -> None:
        """A grid of images (B, 3, H, W) uint8 on the CPU."""
        self._image(name, grid(images.numpy()), step)

    def evaluation(self, evaluation: Evaluation, step: int) -> None:
        """The metrics as curves, the pictures as images."""
        self.scalars("evaluation", evaluation.metrics, step)
        for name, picture in evaluation.pictures.items():
            self._image(f"evaluation/{name}", picture, step)

    def epochs(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.jsonl, one line for each epoch so far, as a whole, so that no reader sees half a line."""
        if not self.writes:
            return
        self._lines = [json.dumps(record, allow_nan=False) for record in records]
        try:
            self._write()
        except DataError as error:
            logger.warning("%s; training goes on, and the next epoch writes all lines again", error)

    def flush(self) -> None:
        """Return when everything recorded is on the disk, or could not be written; any thread may call this."""
        for sink in self.sinks:
            sink.flush()

    def settle(self) -> None:
        """Write what could not be written before.

        Raises:
            DataError: metrics.jsonl cannot be.
        """
        if self.writes and not self._is_written:
            self._write()

    def _image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8."""
        for sink in self.sinks:
            sink.image(tag, pixels, step)

    def _write(self) -> None:
        self._is_written = False
        write_text(self.metrics, "".join(f"{line}\n" for line in self._lines))
        self._is_written = True


def grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """(B, 3, H, W) uint8 -> one image (rows * H, columns * W, 3); places left over are black."""
    batch, channels, height, width = images.shape
    rows = -(-batch // columns)
    places = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    places[:batch] = images
    grid = places.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)
