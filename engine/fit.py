"""The training loop: fit -> train_epoch -> train_step, then one call each to evaluate, keep and record."""

import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.batches import train_batches
from engine.optim import set_learning_rates, set_train_mode
from engine.progress import Progress
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.schedule import lr_factor
from engine.training import Training
from evaluate.core.plugins import Evaluation, evaluate
from evaluate.core.table import metrics_table
from losses.criterion import Losses
from models.network import Embedder
from models.sync_bn import average_buffers
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.distributed import mean_over_processes, this_process, wait_for_all
from utils.errors import UserError
from utils.out_of_memory import out_of_memory_told

logger = logging.getLogger(__name__)


class EpochResult(NamedTuple):
    """Means over one epoch."""

    losses: dict[str, float]
    measures: dict[str, float]
    """What is not trained on and yet tells how training goes; "accuracy" is always among them."""
    lr: dict[str, float]
    """Learning rates of the epoch's last step."""
    examples_per_second: float


def fit(training: Training, folder: RunFolder, recorder: Recorder) -> None:
    """Train from where `training` stands to the last epoch; afterwards only the best model is left."""
    params = training.params
    evaluating = params.evaluation_params.type is not None
    spectral_acted = False
    while training.epoch < params.epoch:
        start = time.monotonic()
        if training.spectral_acts() and not spectral_acted:
            spectral_acted = True
            logger.info("the spectral transform acts from epoch %d on", training.epoch + 1)
        with out_of_memory_told(*_memory_of(training)):
            result = train_epoch(training, recorder)
        # Each process has normalised by batches of its own; from here on all have the same averages of them.
        average_buffers(training.network)
        training.epoch += 1
        training.best_accuracy = max(training.best_accuracy, result.measures["accuracy"])
        is_due = training.epoch % params.evaluation_params.every_epochs == 0 or training.epoch == params.epoch
        evaluation = evaluate_network(training) if evaluating and is_due else None
        keep_best(training, folder, evaluation)
        # Recorded before it is saved: what a stop in between leaves behind is recorded again, never missing.
        record_epoch(training, recorder, result, evaluation, time.monotonic() - start)
        training.save(folder.last)
    # All are through: what fails in one from here on would make torchrun begin again.
    wait_for_all()
    if this_process().is_main:
        folder.last.unlink()
    if params.model_params.spectral_trans and not training.spectral_acts():
        wanted, reached = params.model_params.spectral_start_accuracy, training.best_accuracy
        logger.warning("the spectral transform never acted: training accuracy reached %.3f, not %g", reached, wanted)
    logger.info("finished: %s", folder.best)


def train_epoch(training: Training, recorder: Recorder) -> EpochResult:
    """One pass over the epoch's batches. The device is asked for values only every `log_every` steps.

    Raises:
        UserError: the training has diverged.
    """
    params, dist = training.params, this_process()
    set_train_mode(training.network, fine_tune=params.fine_tune)
    indices = training.batches()
    num_steps = len(indices) // params.accumulate_steps
    images_per_step = params.images_per_step * params.accumulate_steps * dist.world_size
    total = num_steps * images_per_step
    progress = Progress(f"epoch {training.epoch + 1}/{params.epoch}", total)
    spectral = training.spectral_acts()
    meter, lr = Meter(), {}
    start = time.monotonic()
    for number, batches in enumerate(train_batches(training, indices), start=1):
        factor = lr_factor(
            params.lr, training.step, num_steps, class_balanced=params.batch_sampling_params.class_balanced
        )
        lr = set_learning_rates(training.stepper.optimizer, params, factor)
        if training.step == 0:
            recorder.batch(batches[0].pixels, params.data_augmentation.normalisation, 0)
        meter.add(training.stepper.step(batches, training.step, spectral))
        training.step += 1
        if training.step % params.log_every == 0 or number == num_steps:
            recent = meter.read()
            recorder.scalars("train", {**recent.losses, **recent.measures, **lr}, training.step)
            accuracy = recent.measures["accuracy"]
            progress.update(number * images_per_step, {"loss": sum(recent.losses.values()), "accuracy": accuracy})
    progress.close()
    means = meter.means()
    return EpochResult(means.losses, means.measures, lr, total / (time.monotonic() - start))


class Means(NamedTuple):
    """Means of a number of batches."""

    losses: dict[str, float]
    measures: dict[str, float]


class Meter:
    """Sums the values of batches on the device; only `read` and `means` wait for it."""

    def __init__(self) -> None:
        self.recent: list[Losses] = []
        self.sums: dict[str, float] = {}
        self.losses: tuple[str, ...] = ()
        self.count = 0

    def add(self, values: Sequence[Losses]) -> None:
        """Take in the scalars of one step's batches; their names are always the same."""
        self.recent += values

    def read(self) -> Means:
        """Means of the batches since the last reading, over all processes.

        Raises:
            UserError: one of them is not a finite number.
        """
        self.losses = tuple(self.recent[0].terms)
        names = [*self.losses, *self.recent[0].measures]
        rows = [torch.stack([*batch.terms.values(), *batch.measures.values()]) for batch in self.recent]
        sums = dict(zip(names, mean_over_processes(torch.stack(rows).double().sum(0)).tolist(), strict=True))
        if bad := [name for name, value in sums.items() if not math.isfinite(value)]:
            raise UserError(f"training has diverged: {', '.join(bad)} is not finite; lower lr or warm up longer")
        count, self.recent = len(self.recent), []
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.count += count
        return self._parted(sums, count)

    def means(self) -> Means:
        """Means of all batches read."""
        return self._parted(self.sums, self.count)

    def _parted(self, sums: dict[str, float], count: int) -> Means:
        means = {name: value / count for name, value in sums.items()}
        losses = {name: means.pop(name) for name in self.losses}
        return Means(losses, means)


def evaluate_network(training: Training) -> Evaluation:
    """Let the plug-in of the params measure the network as it is; every process gets the same figures."""
    embedder = Embedder(training.network, training.pids).eval()
    evaluation = evaluate(training.params.with_net(embedder, training.kept_images))
    # What only an offline evaluation asks for would keep all embeddings in memory during the next epoch.
    return evaluation._replace(features=None, report=None)


def keep_best(training: Training, folder: RunFolder, evaluation: Evaluation | None) -> None:
    """Write model_best.pth if this model is better than every one before; without evaluation the last is kept.

    Only the first process writes; all remember the score.
    """
    evaluating = training.params.evaluation_params.type is not None
    if evaluating and evaluation is None:
        return
    score = None if evaluation is None else evaluation.score
    if score is not None and training.best_score is not None and score <= training.best_score:
        return
    training.best_score = score
    if not this_process().is_main:
        return
    model = {name: tensor.cpu() for name, tensor in training.network.state_dict().items()}
    params = training.params.model_dump(mode="json")
    metrics = {} if evaluation is None else evaluation.metrics
    save_checkpoint(folder.best, Checkpoint(model, params, training.pids, metrics))


def _memory_of(training: Training) -> tuple[str, str]:
    """What a step holds in memory, and what to lower where that is too much."""
    params, precision = training.params, training.stepper.precision.name
    images = f"{params.images_per_step} images of {params.img_h} x {params.img_w} a batch in {precision}"
    lower = "batch_sampling_params.P or K" if params.batch_sampling_params.class_balanced else "batch_size"
    halved = ' or set precision "bf16", which halves what the network remembers' if precision == "fp32" else ""
    advice = f"lower {lower} (accumulate_steps makes up for it), img_h and img_w, take a smaller model{halved}"
    return f"training on {training.device} with {images}", advice


def record_epoch(
    training: Training, recorder: Recorder, result: EpochResult, evaluation: Evaluation | None, seconds: float
) -> None:
    """One object in metrics.jsonl, the curves, and a line on the screen."""
    record = {
        "epoch": training.epoch,
        "step": training.step,
        "seconds": round(seconds, 3),
        "examples_per_second": round(result.examples_per_second, 1),
        "lr": result.lr,
        "losses": result.losses,
        "measures": result.measures,
    }
    if evaluation is not None:
        record["metrics"] = evaluation.metrics
        recorder.evaluation(evaluation, training.step)
    of_epoch = {**result.measures, "examples_per_second": result.examples_per_second}
    recorder.scalars("epoch", of_epoch, training.step)
    recorder.epoch(record)
    logger.info(
        "epoch %d/%d  loss %.3f  accuracy %.3f  %.0f examples/s  %.1f s%s",
        training.epoch,
        training.params.epoch,
        sum(result.losses.values()),
        result.measures["accuracy"],
        result.examples_per_second,
        seconds,
        "" if evaluation is None else f"\n{metrics_table(evaluation.metrics)}",
    )
