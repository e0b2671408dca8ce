"""The training loop: the steps of an epoch, then one call each to evaluate, keep and record."""

import logging
import math
import time

from engine.best_model import BestModel
from engine.epoch import EpochSteps, shown
from engine.gan import snapshots
from engine.gan.mixing import num_generated
from engine.gan.sampling import sample_grid
from engine.meter import Means
from engine.optim import learning_rates
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from engine.state_writer import StateWriter
from engine.training import Training
from evaluate.core.context import EvalContext
from evaluate.core.plugins import Evaluation, evaluate
from evaluate.core.table import metrics_table
from models.network import Embedder
from models.sync_bn import average_buffers
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.distributed import fail_together, this_process, wait_for_all
from utils.memory import explain_oom

logger = logging.getLogger(__name__)


def fit(training: Training, folder: RunFolder, recorder: Recorder, writer: StateWriter) -> None:
    """Train from where `training` stands to the last epoch; afterwards only the best model is left.

    Raises:
        Interrupted: a signal asked to stop; the state to go on from is saved.
        DivergedError: too many steps in a row came to nothing; the state is saved here too.
        DataError: the best model or metrics.jsonl could not be written to the end; last.pth is left to go on from.
    """
    params = training.params
    best = BestModel(training, folder.best)
    spectral_acted = False
    while training.epoch < training.num_epochs:
        if training.spectral_acts() and not spectral_acted:
            spectral_acted = True
            logger.info("the spectral transform acts from epoch %d on", training.epoch + 1)
        with explain_oom(*_memory_of(training)):
            EpochSteps(training, recorder, writer).take()
        finish_epoch(training, best, recorder)
    writer.finish()
    with fail_together():
        best.settle()
        recorder.settle()
        keep_generator(training, folder)
    # All are through: what fails in one from here on would make torchrun begin again.
    wait_for_all()
    if this_process().is_rank_zero:
        folder.last.unlink(missing_ok=True)
    if params.model_params.spectral_trans and not training.spectral_acts():
        wanted, reached = params.model_params.spectral_start_accuracy, training.best_accuracy
        logger.warning("the spectral transform never acted: training accuracy reached %.3f, not %g", reached, wanted)
    logger.info("finished: %s", folder.best)


def finish_epoch(training: Training, best: BestModel, recorder: Recorder) -> None:
    """What follows the last step of an epoch: evaluate the network, keep it if it is the best, record the epoch.

    A run that is stopped in here goes on with this again.
    """
    params, start = training.params, time.monotonic()
    # Each process has normalised by batches of its own; from here on all have the same averages of them.
    average_buffers(training.network)
    recent, means = training.meter.read(), training.meter.means()
    training.epoch += 1
    training.best_accuracy = max(training.best_accuracy, means.measures.get("accuracy", 0.0))
    is_due = training.epoch % params.evaluation_params.every_epochs == 0 or training.epoch == params.epoch
    evaluating = params.evaluation_params.type is not None
    evaluation = evaluate_network(training) if evaluating and is_due else None
    if evaluation is not None or not evaluating:
        best.offer(evaluation and evaluation.score, lambda: checkpoint_of(training, evaluation))
    else:
        best.try_again()
    seconds = training.seconds + time.monotonic() - start
    record_epoch(training, recorder, recent, means, evaluation, seconds)


def keep_generator(training: Training, folder: RunFolder) -> None:
    """Write the generator that was trained along, if there is one, as it is in the end.

    Raises:
        DataError: it cannot be written.
    """
    learner = None if training.mixing is None else training.mixing.learner
    if learner is not None and this_process().is_rank_zero:
        save_checkpoint(folder.generator, snapshots.checkpoint_of(learner, training.params, training.pids, {}))


def checkpoint_of(training: Training, evaluation: Evaluation | None) -> Checkpoint:
    """The network as it is, a copy, with what an evaluation said of it."""
    model = {name: tensor.detach().cpu().clone() for name, tensor in training.network.state_dict().items()}
    metrics = {} if evaluation is None else evaluation.metrics
    return Checkpoint(model, training.params.model_dump(mode="json"), training.pids, metrics)


def evaluate_network(training: Training) -> Evaluation:
    """Let the plug-in of the params measure the network as it is; every process gets the same figures."""
    embedder = Embedder(training.network, training.pids).eval()
    evaluation = evaluate(EvalContext(training.params, embedder, training.kept_images))
    # What only an offline evaluation asks for would keep all embeddings in memory during the next epoch.
    return evaluation._replace(features=None, report=None)


def record_epoch(
    training: Training, recorder: Recorder, recent: Means, means: Means, evaluation: Evaluation | None, seconds: float
) -> None:
    """One object in metrics.jsonl, the curves, and a line on the screen."""
    params = training.params
    rates = learning_rates(training.stepper.optimizer)
    recorder.scalars("train", {**recent.losses, **recent.measures, **rates}, training.step)
    num_images = training.step // training.epoch * params.batch_images * params.accumulate_steps
    speed = num_images * this_process().world_size / training.seconds
    record = {
        "epoch": training.epoch,
        "step": training.step,
        "seconds": round(seconds, 3),
        "examples_per_second": round(speed, 1),
        "lr": rates,
        "losses": means.losses,
        "measures": {name: value if math.isfinite(value) else None for name, value in means.measures.items()},
    }
    if evaluation is not None:
        record["metrics"] = evaluation.metrics
        recorder.evaluation(evaluation, training.step)
    if training.mixing is not None and training.mixing.learner is not None:
        samples = sample_grid(training.mixing.generator, training.mixing.conditions, params.seed)
        recorder.images("samples", samples, training.step)
    training.records.append(record)
    recorder.scalars("epoch", {**means.measures, "examples_per_second": speed}, training.step)
    recorder.epochs(training.records)
    logger.info(
        "epoch %d/%d  %s  %.0f examples/s  %.1f s%s",
        training.epoch,
        params.epoch,
        "  ".join(f"{name} {value:.3f}" for name, value in shown(means).items()),
        speed,
        seconds,
        "" if evaluation is None else f"\n{metrics_table(evaluation.metrics)}",
    )


def _memory_of(training: Training) -> tuple[str, str]:
    """What a step holds in memory, and what to lower where that is too much."""
    params, precision = training.params, training.stepper.precision.name
    number = params.batch_images + num_generated(params)
    images = f"{number} images of {params.img_h} x {params.img_w} a batch in {precision}"
    lower = "batch_sampling_params.P or K" if params.batch_sampling_params.class_balanced else "batch_size"
    halved = ' or set precision "bf16", which halves what the network remembers' if precision == "fp32" else ""
    advice = f"lower {lower} (accumulate_steps makes up for it), img_h and img_w, take a smaller model{halved}"
    return f"training on {training.device} with {images}", advice
