"""Shows and records what happens in a run: progress on the screen, curves and images in sinks, metrics.jsonl."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor
from tqdm import tqdm

from config.params import Params
from engine.meter import Means
from engine.run import RunFolder
from engine.sinks import Sink, open_sinks
from evaluate.core.plugins import Evaluation
from evaluate.core.table import metrics_table
from utils.distributed import this_process
from utils.errors import DataError, UserError
from utils.files import write_text
from utils.logs import bars_hidden

SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger(__name__)


class EpochRecord(NamedTuple):
    """What is recorded of an epoch."""

    epoch: int
    step: int
    seconds: float
    """With its evaluation."""
    examples_per_second: float
    """In its steps, without the first of a process."""
    lr: Mapping[str, float]
    means: Means
    metrics: Mapping[str, float] | None
    """None if it was not evaluated."""

    def as_json(self) -> dict[str, Any]:
        """Its line in metrics.jsonl."""
        measures = {name: value if math.isfinite(value) else None for name, value in self.means.metrics.items()}
        line = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "examples_per_second": round(self.examples_per_second, 1),
            "lr": dict(self.lr),
            "losses": self.means.losses,
            "measures": measures,
        }
        return line if self.metrics is None else {**line, "metrics": dict(self.metrics)}

    def as_text(self, num_epochs: int, values: Mapping[str, float]) -> str:
        """Its lines on the screen; `values` are the means to show."""
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        table = "" if self.metrics is None else f"\n{metrics_table(self.metrics)}"
        speed = f"{self.examples_per_second:.0f} examples/s"
        return f"epoch {self.epoch}/{num_epochs}  {shown}  {speed}  {self.seconds:.1f} s{table}"


class Recorder:
    """Curves, images and files for the loggers, one JSON line per epoch. What cannot be written stops no training.

    Args:
        folder: the run's folder; of several processes only rank 0 writes into it.
        purge_step: TensorBoard hides what was recorded at this step or later, as it is recorded again; 0 for a new run.
        params: of the run; they name its loggers.
        sinks: where everything goes besides.
    """

    def __init__(
        self, folder: RunFolder, purge_step: int = 0, params: Params | None = None, sinks: Sequence[Sink] = ()
    ) -> None:
        self.writes = this_process().is_rank_zero
        self.sinks: list[Sink] = []
        if self.writes:
            params = params or Params()
            self.sinks = open_sinks(params.loggers, folder.path, params.model_dump(mode="json"), purge_step)
            self.sinks += sinks
        self.metrics, self.report = folder.metrics, folder.report
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

    def steps(self, means: Means, rates: Mapping[str, float], step: int) -> None:
        """Losses, metrics and learning rates of the steps since the last call."""
        self.scalars("train", {**means.losses, **means.metrics, **rates}, step)

    def epoch(self, record: EpochRecord, records: Sequence[Mapping[str, Any]]) -> None:
        """Curves of an epoch, and metrics.jsonl with the lines of all epochs so far."""
        means = {**record.means.losses, **record.means.metrics}
        self.scalars("epoch", {**means, "examples_per_second": record.examples_per_second}, record.step)
        self.epochs(records)

    def pictures(self, pictures: Mapping[str, Tensor], step: int) -> None:
        """A grid of images (N, 3, H, W) uint8 by name."""
        for name, images in pictures.items():
            self._image(name, grid(images.cpu().numpy()), step)

    def evaluation(self, evaluation: Evaluation, step: int) -> None:
        """The metrics as curves, the pictures as images."""
        self.scalars("evaluation", evaluation.metrics, step)
        for name, picture in evaluation.pictures.items():
            self._image(f"evaluation/{name}", picture, step)

    def best(self, evaluation: Evaluation | None) -> None:
        """Write the report of the best model so far into the run's folder, if a logger has a use for it."""
        reports = evaluation.reports if evaluation else []
        if not reports or not any(sink.takes_files for sink in self.sinks):
            return
        # Here, as most trainings make none.
        from evaluate.core.report.page import write_report

        try:
            write_report(self.report, [report() for report in reports])
        except (UserError, OSError) as error:
            logger.warning("%s: not written: %s; training continues", self.report, error)

    def epochs(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.jsonl, one line for each epoch so far, as a whole, so that no reader sees half a line."""
        if not self.writes:
            return
        self._lines = [json.dumps(record, allow_nan=False) for record in records]
        try:
            self._write()
        except DataError as error:
            logger.warning("%s; training continues, and the next epoch writes all lines again", error)

    def flush(self) -> None:
        """Return when everything recorded is on the disk, or could not be written; any thread may call this."""
        for sink in self.sinks:
            sink.flush()

    def settle(self, best: Path) -> None:
        """Write what could not be written before, and give the best model and its report to the loggers.

        Raises:
            DataError: metrics.jsonl cannot be.
        """
        if self.writes and not self._is_written:
            self._write()
        for path in (best, self.report):
            for sink in self.sinks if path.is_file() else ():
                sink.file(path)

    def _image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8."""
        for sink in self.sinks:
            sink.image(tag, pixels, step)

    def _write(self) -> None:
        self._is_written = False
        write_text(self.metrics, "".join(f"{line}\n" for line in self._lines))
        self._is_written = True


class Progress:
    """Shows how far an epoch is, with its loss, accuracy, speed and the time left.

    Args:
        title: what stands at the front, such as "epoch 3/12".
        total: images in the epoch.
        done: how many of them are through already.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.last_line = time.monotonic()
        self._first: tuple[int, float] | None = None
        """Images and time of the first update: the steps before it warm up, and do not count in the speed."""
        self.bar = tqdm(
            total=total, initial=done, desc=title, unit="img", leave=False, dynamic_ncols=True, disable=bars_hidden()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar off the screen."""
        self.bar.close()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Tell that `done` images of the epoch are through, and the values of the steps since the last call."""
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
            return
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES and done < self.total:
            first, start = self._first
            speed = (done - first) / (now - start)
            left = (self.total - done) / speed
            logger.info("%s: %d/%d  %s  %.0f examples/s  %.0f s left", self.title, done, self.total, shown, speed, left)
            self.last_line = now


def grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """(B, 3, H, W) uint8 -> one image (rows * H, columns * W, 3); places left over are black."""
    batch, channels, height, width = images.shape
    rows = -(-batch // columns)
    places = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    places[:batch] = images
    grid = places.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)
