"""The training of a generator: the steps of an epoch, then one call each to measure, keep and record."""

import logging
import time

from torch import Tensor

from config.gan import GanParams
from engine.best_model import BestModel
from engine.gan.epoch import GanSteps
from engine.gan.quality import Measured
from engine.gan.sampling import sample_grid
from engine.gan.snapshots import checkpoint_of
from engine.gan.training import GanTraining
from engine.meter import Means
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.state_writer import StateWriter
from utils.memory import explain_oom

logger = logging.getLogger(__name__)


def fit_generator(training: GanTraining, folder: RunFolder, recorder: Recorder, writer: StateWriter) -> None:
    """Train from where `training` stands to the last epoch; afterwards only the best generator is left.

    Raises:
        Interrupted: a signal asked to stop; the state to go on from is saved.
        DivergedError: a loss is not finite; the state saved last is from before.
        DataError: the best generator or metrics.jsonl could not be written to the end; last.pth is left to go on from.
    """
    best = BestModel(training, folder.generator)
    while training.epoch < training.num_epochs:
        with explain_oom(*_memory_of(training)):
            GanSteps(training, recorder, writer).take()
        finish_epoch(training, best, recorder)
    writer.finish()
    best.settle()
    recorder.settle()
    folder.last.unlink(missing_ok=True)
    logger.info("finished: %s", folder.generator)


def finish_epoch(training: GanTraining, best: BestModel, recorder: Recorder) -> None:
    """What follows the last step of an epoch: show samples, measure them, keep the best generator, record the epoch.

    A run that is stopped in here goes on with this again.
    """
    gan, start = training.params.gan_params, time.monotonic()
    recent, means = training.meter.read(), training.meter.means()
    training.epoch += 1
    recorder.images("samples", _samples(training), training.step)
    is_due = training.epoch % gan.measure_epochs == 0 or training.epoch == training.num_epochs
    measured = measure_generator(training, recorder) if is_due else None
    if measured is not None or training.quality is None:
        metrics = {} if measured is None else measured.metrics
        # Of FID less is better.
        score = None if measured is None else -metrics["fid"]
        best.offer(score, lambda: checkpoint_of(training.adversaries, training.params, training.pids, metrics))
    else:
        best.try_again()
    seconds = training.seconds + time.monotonic() - start
    _record(training, recorder, recent, means, measured, seconds)


def begin_generator(training: GanTraining, recorder: Recorder) -> None:
    """Show and measure what the untrained generator makes."""
    recorder.images("samples", _samples(training), training.step)
    if (measured := measure_generator(training, recorder)) is not None:
        logger.info("before training  %s", shown_metrics(measured.metrics))


def measure_generator(training: GanTraining, recorder: Recorder) -> Measured | None:
    """What the generator is like now; None where nothing measures it."""
    if training.quality is None:
        return None
    measured = training.quality(training.adversaries)
    recorder.scalars("evaluation", measured.metrics, training.step)
    recorder.images("evaluation/beside_nearest", measured.beside_nearest, training.step)
    return measured


def _samples(training: GanTraining) -> Tensor:
    return sample_grid(training.adversaries.average, training.conditions, training.params.seed)


def shown_metrics(metrics: dict[str, float]) -> str:
    """Metrics on a line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _record(
    training: GanTraining,
    recorder: Recorder,
    recent: Means,
    means: Means,
    measured: Measured | None,
    seconds: float,
) -> None:
    """One object in metrics.jsonl, the curves, and a line on the screen."""
    gan: GanParams = training.params.gan_params
    recorder.scalars("train", {**recent.losses, **recent.measures}, training.step)
    speed = training.steps_per_epoch * gan.batch_size * gan.d_update_freq / training.seconds
    record = {
        "epoch": training.epoch,
        "step": training.step,
        "seconds": round(seconds, 3),
        "examples_per_second": round(speed, 1),
        "lr": {"lr": gan.lr, "lr_d": gan.lr_d},
        "losses": means.losses,
        "measures": means.measures,
    }
    if measured is not None:
        record["metrics"] = measured.metrics
    training.records.append(record)
    recorder.scalars("epoch", {**means.losses, **means.measures, "examples_per_second": speed}, training.step)
    recorder.epochs(training.records)
    values = "  ".join(f"{name} {value:.3f}" for name, value in {**means.losses, **means.measures}.items())
    metrics = "" if measured is None else f"\n  {shown_metrics(measured.metrics)}"
    logger.info(
        "epoch %d/%d  %s  %.0f examples/s  %.1f s%s",
        training.epoch,
        training.num_epochs,
        values,
        speed,
        seconds,
        metrics,
    )


def _memory_of(training: GanTraining) -> tuple[str, str]:
    """What a step holds in memory, and what to lower where that is too much."""
    gan = training.params.gan_params
    images = f"{gan.batch_size} pictures of {gan.img_h} x {gan.img_h // 2}"
    return f"training a generator on {training.device} with {images}", "lower gan_params.batch_size, ngf, ndf or img_h"
