"""The training loop: fit -> train_epoch -> train_step, then one call each to evaluate, keep and record."""

import logging
import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from data.augment import augment
from data.store import read_ahead
from engine.optim import set_learning_rates, set_train_mode
from engine.progress import Progress
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.schedule import lr_factor
from engine.training import Training
from evaluate.core.plugins import Evaluation, evaluate
from evaluate.core.table import metrics_table
from models.network import Embedder
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import UserError

logger = logging.getLogger(__name__)


class EpochResult(NamedTuple):
    """Means over one epoch."""

    losses: dict[str, float]
    accuracy: float
    lr: dict[str, float]
    """Learning rates of the epoch's last step."""
    examples_per_second: float


def fit(training: Training, folder: RunFolder, recorder: Recorder) -> None:
    """Train from where `training` stands to the last epoch; afterwards only the best model is left."""
    params = training.params
    evaluating = params.evaluation_params.type is not None
    while training.epoch < params.epoch:
        start = time.monotonic()
        result = train_epoch(training, recorder)
        training.epoch += 1
        is_due = training.epoch % params.evaluation_params.every_epochs == 0 or training.epoch == params.epoch
        evaluation = evaluate_network(training) if evaluating and is_due else None
        keep_best(training, folder, evaluation)
        # Recorded before it is saved: what a stop in between leaves behind is recorded again, never missing.
        record_epoch(training, recorder, result, evaluation, time.monotonic() - start)
        training.save(folder.last)
    folder.last.unlink()
    logger.info("finished: %s", folder.best)


def train_epoch(training: Training, recorder: Recorder) -> EpochResult:
    """One pass over the epoch's batches. The device is asked for values only every `log_every` steps."""
    params, batches = training.params, training.batches()
    set_train_mode(training.network, fine_tune=params.fine_tune)
    total = sum(map(len, batches))
    progress = Progress(f"epoch {training.epoch + 1}/{params.epoch}", total)
    meter, lr, done = Meter(), {}, 0
    start = time.monotonic()
    for batch, images in zip(batches, read_ahead(training.store.read, batches), strict=True):
        factor = lr_factor(
            params.lr, training.step, len(batches), class_balanced=params.batch_sampling_params.class_balanced
        )
        lr = set_learning_rates(training.optimizer, params, factor)
        pixels = augment(
            images.to(training.device), params.data_augmentation, params.img_h, params.img_w, training.generator
        )
        if training.step == 0:
            recorder.batch(pixels, params.data_augmentation.normalisation, 0)
        meter.add(train_step(training, pixels, training.labels[batch].to(training.device)))
        training.step += 1
        done += len(batch)
        if training.step % params.log_every == 0 or done == total:
            recent = meter.read()
            recorder.scalars("train", {**recent, **lr}, training.step)
            progress.update(done, {"loss": sum(meter.losses_of(recent).values()), "accuracy": recent["accuracy"]})
    progress.close()
    means = meter.means()
    return EpochResult(meter.losses_of(means), means["accuracy"], lr, total / (time.monotonic() - start))


def train_step(training: Training, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One update. Returns each loss and the accuracy as scalars that still lie on the device."""
    output = training.network(pixels)
    terms = training.criterion(output, labels)
    training.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    training.optimizer.step()
    logits = torch.cat([branch.logits.detach() for branch in output.values()])
    terms = {name: term.detach() for name, term in terms.items()}
    return {**terms, "accuracy": (logits.argmax(-1) == labels).float().mean()}


class Meter:
    """Sums values on the device; only `read` and `means` wait for it."""

    def __init__(self) -> None:
        self.recent: list[dict[str, Tensor]] = []
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in the scalars of one step."""
        self.recent.append(values)

    def read(self) -> dict[str, float]:
        """Means of the steps since the last reading.

        Raises:
            UserError: one of them is not a finite number.
        """
        names = list(self.recent[0])
        table = torch.stack([torch.stack([step[name] for name in names]) for step in self.recent]).double().sum(0)
        sums = dict(zip(names, table.tolist(), strict=True))
        if bad := [name for name, value in sums.items() if not math.isfinite(value)]:
            raise UserError(f"training has diverged: {', '.join(bad)} is not finite; lower lr or warm up longer")
        count, self.recent = len(self.recent), []
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.count += count
        return {name: value / count for name, value in sums.items()}

    def means(self) -> dict[str, float]:
        """Means of all steps read."""
        return {name: value / self.count for name, value in self.sums.items()}

    @staticmethod
    def losses_of(values: dict[str, float]) -> dict[str, float]:
        """The losses among the values, without the accuracy."""
        return {name: value for name, value in values.items() if name != "accuracy"}


def evaluate_network(training: Training) -> Evaluation:
    """Let the plug-in of the params measure the network as it is."""
    embedder = Embedder(training.network, training.pids).eval()
    evaluation = evaluate(training.params.with_net(embedder))
    # What only an offline evaluation asks for would keep all embeddings in memory during the next epoch.
    return evaluation._replace(features=None, report=None)


def keep_best(training: Training, folder: RunFolder, evaluation: Evaluation | None) -> None:
    """Write model_best.pth if this model is better than every one before; without evaluation the last is kept."""
    evaluating = training.params.evaluation_params.type is not None
    if evaluating and evaluation is None:
        return
    score = None if evaluation is None else evaluation.score
    if score is not None and training.best_score is not None and score <= training.best_score:
        return
    training.best_score = score
    model = {name: tensor.cpu() for name, tensor in training.network.state_dict().items()}
    params = training.params.model_dump(mode="json")
    metrics = {} if evaluation is None else evaluation.metrics
    save_checkpoint(folder.best, Checkpoint(model, params, training.pids, metrics))


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
        "accuracy": result.accuracy,
    }
    if evaluation is not None:
        record["metrics"] = evaluation.metrics
        recorder.evaluation(evaluation, training.step)
    of_epoch = {"accuracy": result.accuracy, "examples_per_second": result.examples_per_second}
    recorder.scalars("epoch", of_epoch, training.step)
    recorder.epoch(record)
    logger.info(
        "epoch %d/%d  loss %.3f  accuracy %.3f  %.0f examples/s  %.1f s%s",
        training.epoch,
        training.params.epoch,
        sum(result.losses.values()),
        result.accuracy,
        result.examples_per_second,
        seconds,
        "" if evaluation is None else f"\n{metrics_table(evaluation.metrics)}",
    )
