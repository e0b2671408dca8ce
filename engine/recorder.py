"""Writes what happens in a run: TensorBoard events and metrics.jsonl."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from tensorboardX import SummaryWriter
from torch import Tensor

from data.augmentation.normalisation import denormalise
from engine.run_folder import RunFolder
from evaluate.core.plugins import Evaluation
from utils.distributed import this_process
from utils.files import write_text


class Recorder:
    """Scalars and pictures for TensorBoard, one JSON line per epoch.

    Args:
        folder: the run's folder; of several processes only the first writes into it.
        resumed_at: epoch and step that a resumed run goes on from; what an interrupted run recorded later is hidden
            in TensorBoard and cut off metrics.jsonl. None for a new run.
    """

    def __init__(self, folder: RunFolder, resumed_at: tuple[int, int] | None = None) -> None:
        epoch, step = resumed_at or (0, 0)
        # What was recorded at the step itself belongs to the epoch that is finished. The suffix keeps a run that is
        # resumed within a second from overwriting its own file, which is named after the clock.
        purge_step, suffix = (step + 1, f".step{step}") if resumed_at else (None, "")
        self.writes = this_process().is_main
        self.writer = SummaryWriter(
            str(folder.path), purge_step=purge_step, filename_suffix=suffix, write_to_disk=self.writes
        )
        self.metrics = folder.metrics
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        self.lines = [line for line in lines if json.loads(line)["epoch"] <= epoch]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.close()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """One curve per value, under group/name."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def batch(self, pixels: Tensor, normalisation: Any, step: int, most: int = 32) -> None:
        """A grid of the first augmented images as the network sees them; pixels (B, 3, H, W), normalised."""
        shown = denormalise(pixels[:most], normalisation).cpu().numpy()
        self.writer.add_image("train/batch", _grid(shown), step)

    def evaluation(self, evaluation: Evaluation, step: int) -> None:
        """The metrics as curves, the pictures as images."""
        self.scalars("evaluation", evaluation.metrics, step)
        for name, picture in evaluation.pictures.items():
            self.writer.add_image(f"evaluation/{name}", picture, step, dataformats="HWC")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append one epoch to metrics.jsonl, replacing the file so that no reader sees half a line."""
        if not self.writes:
            return
        self.lines.append(json.dumps(record))
        write_text(self.metrics, "".join(f"{line}\n" for line in self.lines))
        self.writer.flush()


def _grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """(B, 3, H, W) uint8 -> one picture (3, rows * H, columns * W); places left over are black."""
    batch, channels, height, width = images.shape
    rows = -(-batch // columns)
    places = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    places[:batch] = images
    grid = places.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)
