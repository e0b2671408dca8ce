"""The training loop. Read this file first.

`Trainer` is what every training has in common. `fit` trains to the end: `train_one_epoch` takes the steps of an epoch,
`finish_epoch` evaluates the network, keeps it if it is the best so far, and records the epoch. `ReidTrainer` trains a
re-ID network: `train_step` is one step, `evaluate` measures the network. engine/build.py builds it from params;
gan/trainer.py trains a person generator with the same loop.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from data.augmentation.normalisation import denormalise
from data.cache import DecodedImageCache
from engine.batches import TrainBatch, TrainBatches
from engine.checkpointing import AsyncCheckpointer, BestCheckpoint, Stateful, read_state
from engine.meter import Means, Meter, StepClock, StepValues
from engine.monitor import DivergedError, TrainingMonitor
from engine.optim import learning_rates, set_learning_rates, set_train_mode
from engine.recorder import EpochRecord, Progress, Recorder
from engine.run import Run
from engine.schedules import Schedule
from engine.spectral import SpectralStart
from engine.step import Stepper
from evaluate.core.context import EvalContext
from evaluate.core.plugins import Evaluation, evaluate
from evaluate.core.table import metrics_table
from models.network import Embedder
from utils.checkpoint import MODEL_BEST, Checkpoint
from utils.distributed import fail_together, this_process, wait_for_all
from utils.errors import ParamsError, ReportedByOtherRankError
from utils.interrupts import Interrupted, StopConsensus, interrupts_noted
from utils.memory import explain_oom

logger = logging.getLogger(__name__)


class Trainer(ABC):
    """Trains epoch by epoch. A run can be stopped after any step and resumed to the same bits.

    No random state is saved: every draw follows from the seed and the step, the order of images from seed and epoch.

    Args:
        run: params, folder, device, plan and fingerprint.
        optimizers: their parameter groups carry the names of their learning rates.
        stateful: what is saved and resumed besides the counters, such as networks and optimizers, by name.
    """

    best_file: ClassVar[str]  # in the run's folder
    epochs_key: ClassVar[str]  # the setting that says how many epochs there are

    def __init__(self, run: Run, optimizers: Sequence[Optimizer], stateful: Mapping[str, Stateful]) -> None:
        self.params, self.folder, self.device, self.plan, self.fingerprint = run
        self.optimizers = optimizers
        self.meter, self.clock = Meter(), StepClock()
        self.stateful = {**stateful, "meter": self.meter, "clock": self.clock}
        self.best = BestCheckpoint(self.folder.path / self.best_file)
        self.epoch, self.step = 0, 0  # done
        self.records: list[dict[str, Any]] = []  # the lines of metrics.jsonl
        self.is_resumed = False

    def fit(self) -> None:
        """Train to the last epoch; afterwards the best model is left, and no state.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            DivergedError: too many steps in a row were not finite.
            DataError: the best model or metrics.jsonl could not be written; the state is left to resume from.
        """
        # A resumed run records again what followed its state; after an epoch's last step that is the evaluation.
        is_epoch_complete = self.step == (self.epoch + 1) * self.plan.steps_per_epoch
        first_recorded = self.step + (not is_epoch_complete) if self.is_resumed else 0
        recorder = Recorder(self.folder, first_recorded, self.params)
        checkpointer = AsyncCheckpointer(self.folder.last, self.params.checkpoint, recorder.flush, self.best)
        with recorder, checkpointer:
            if self.is_resumed:
                recorder.epochs(self.records)
            else:
                self.before_training(recorder)
                checkpointer.save_first(self.state())
            while self.epoch < self.plan.num_epochs:
                with explain_oom(self.plan.memory_use, self.plan.memory_advice):
                    self.train_one_epoch(recorder, checkpointer)
                self.finish_epoch(recorder, checkpointer)
            checkpointer.finish()
            with fail_together():
                self.best.write()
                recorder.settle(self.best.path)
                self.after_training()
            wait_for_all()  # a process that fails before this needs the state when torchrun restarts it
            if this_process().is_rank_zero:
                self.folder.last.unlink(missing_ok=True)
        logger.info("finished: %s", self.best.path)

    def before_training(self, recorder: Recorder) -> None:
        """Evaluate the untrained network, so that a mistake in the test set shows at once."""
        recorder.pictures(self.pictures(), 0)
        if self.plan.evaluate_every and self.plan.evaluate_at_start:
            evaluation = self.evaluate()
            recorder.evaluation(evaluation, 0)
            logger.info("before training\n%s", metrics_table(evaluation.metrics))

    def train_one_epoch(self, recorder: Recorder, checkpointer: AsyncCheckpointer) -> None:
        """Take the remaining steps of the epoch. The losses are read from the device every `log_every` steps only."""
        plan, first_step = self.plan, self.epoch * self.plan.steps_per_epoch
        last_step = first_step + plan.steps_per_epoch
        if self.step == first_step:
            self.meter.begin_epoch()
            self.clock.begin_epoch()
        self.begin_epoch()
        consensus = StopConsensus()
        title, num_images = f"epoch {self.epoch + 1}/{plan.num_epochs}", plan.steps_per_epoch * plan.images_per_step
        images_done = (self.step - first_step) * plan.images_per_step
        with interrupts_noted() as request, Progress(title, num_images, images_done) as progress:
            self.clock.start()
            for batches in self.load_steps():
                if self.step == 0:
                    recorder.pictures(self.batch_pictures(batches), 1)
                is_finite = self.train_step(batches)
                self.step += 1
                is_logged = self.step % self.params.log_every == 0
                # On a CPU it costs nothing to notice at once that a step was not finite.
                if is_logged or self.step == last_step or (is_finite.device.type == "cpu" and not is_finite):
                    self.check_steps(checkpointer)
                if is_logged and self.step < last_step:
                    recent = self.meter.read()
                    recorder.steps(recent, learning_rates(*self.optimizers), self.step)
                    progress.update((self.step - first_step) * plan.images_per_step, self.progress_values(recent))
                self.clock.end_step()

                # A signal reaches the processes at different steps; they agree on the step at which all of them stop.
                stop, save = consensus.exchange(request.number, checkpointer.is_time())
                # The last step's state comes before the evaluation: a run stopped in that resumes with it.
                if save or stop or self.step == last_step or checkpointer.is_due(self.step):
                    self.save(checkpointer, wait=bool(stop))
                if stop:
                    raise Interrupted(stop)
            if stop := consensus.close():
                self.save(checkpointer, wait=True)
                raise Interrupted(stop)

    def finish_epoch(self, recorder: Recorder, checkpointer: AsyncCheckpointer) -> None:
        """Evaluate the network, keep it if it is the best so far, and record the epoch."""
        start = time.monotonic()
        recent, means = self.meter.read(), self.meter.means()
        self.epoch += 1
        self.end_epoch(means)
        every, evaluation = self.plan.evaluate_every, None
        if every and (self.epoch % every == 0 or self.epoch == self.plan.num_epochs):
            evaluation = self.evaluate()
            recorder.evaluation(evaluation, self.step)
        score = evaluation and evaluation.score
        if (evaluation is not None or not every) and self.best.is_better(score):
            self.best.keep(score, self.best_model(evaluation))
            checkpointer.write_best()
            recorder.best(evaluation)
        rates = learning_rates(*self.optimizers)
        recorder.steps(recent, rates, self.step)
        recorder.pictures(self.pictures(), self.step)
        images_per_second = self.plan.images_per_step * self.clock.steps_per_second
        seconds = self.clock.seconds + time.monotonic() - start
        metrics = evaluation and evaluation.metrics
        record = EpochRecord(self.epoch, self.step, seconds, images_per_second, rates, means, metrics)
        self.records.append(record.as_json())
        recorder.epoch(record, self.records)
        logger.info("%s", record.as_text(self.plan.num_epochs, self.progress_values(means)))

    def check_steps(self, checkpointer: AsyncCheckpointer) -> None:
        """Read the values of the steps since the last call; every process must call this.

        Raises:
            DivergedError: the training is lost; the state is saved if no bad step has changed it.
        """
        try:
            self.raise_if_diverged(self.meter.collect())
        except DivergedError as error:
            if error.weights_are_good:
                checkpointer.save(self.state(), self.step, wait=True)
            # Every rank sees it; only rank 0 reports.
            if not this_process().is_rank_zero:
                raise ReportedByOtherRankError from None
            raise

    def save(self, checkpointer: AsyncCheckpointer, *, wait: bool = False) -> None:
        """Save the state; every process must call this."""
        self.check_steps(checkpointer)
        checkpointer.save(self.state(), self.step, wait=wait)

    def state(self) -> dict[str, Any]:
        """Everything that decides how the training continues; every process must call this."""
        counters = {"epoch": self.epoch, "step": self.step, "records": self.records}
        parts = {name: part.state_dict() for name, part in self.stateful.items()}
        return {"fingerprint": self.fingerprint, "best_score": self.best.score, **counters, **parts}

    def resume(self) -> None:
        """Continue from the state saved in the run's folder; every process must call this.

        Raises:
            DataError: it is missing or damaged, or was saved with different data, settings or device.
            ParamsError: all epochs are done.
        """
        with fail_together(), read_state(self.folder.last, self.fingerprint) as state:
            for name, part in self.stateful.items():
                part.load_state_dict(state[name])
            self.epoch, self.step, self.records = state["epoch"], state["step"], state["records"]
            self.best.restore(state["best_score"])
        if (done := self.epoch) >= self.plan.num_epochs:
            key = f"{self.folder.params}: {self.epochs_key}"
            raise ParamsError(f"{key}: {done} epochs are done; set at least {done + 1} to continue")
        self.is_resumed = True
        logger.info("resumed after step %d, in epoch %d of %d", self.step, self.epoch + 1, self.plan.num_epochs)

    def begin_epoch(self) -> None:
        """Called before the first, or the first remaining, step of an epoch."""

    def end_epoch(self, means: Means) -> None:
        """Called after the last step of an epoch, before its evaluation."""

    @abstractmethod
    def load_steps(self) -> Iterator[Any]:
        """The batches of each remaining step of the epoch, on the device."""

    @abstractmethod
    def train_step(self, batches: Any) -> Tensor:
        """Update the weights and add the losses to the meter; returns whether all was finite, () bool on the device."""

    @abstractmethod
    def raise_if_diverged(self, steps: Sequence[StepValues]) -> None:
        """Look at steps in order; warn of those that were skipped, and raise DivergedError if the training is lost."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """Measure the network; every process gets the same figures."""

    @abstractmethod
    def best_model(self, evaluation: Evaluation | None) -> Checkpoint:
        """A copy of the network as `best_file` holds it."""

    def after_training(self) -> None:
        """Write what the run leaves besides the best model."""

    def pictures(self) -> dict[str, Tensor]:
        """Image grids (N, 3, H, W) uint8 to record in each epoch."""
        return {}

    def batch_pictures(self, batches: Any) -> dict[str, Tensor]:
        """Image grids (N, 3, H, W) uint8 to record of the first batch."""
        return {}

    def progress_values(self, means: Means) -> dict[str, float]:
        """The values that the screen shows."""
        return {**means.losses, **means.metrics}


class ReidTrainer(Trainer):
    """Trains a re-ID network with the losses of its criterion, and measures it with an evaluation plug-in.

    Args:
        run: as of `Trainer`.
        batches: what each step learns from.
        stepper: network, losses and optimizer.
        schedule: the learning rate at each step.
        cache: keeps decoded test images from one evaluation to the next; None where they would not fit.
    """

    best_file, epochs_key = MODEL_BEST, "epoch"

    def __init__(
        self, run: Run, batches: TrainBatches, stepper: Stepper, schedule: Schedule, cache: DecodedImageCache | None
    ) -> None:
        self.batches, self.stepper, self.schedule, self.cache = batches, stepper, schedule, cache
        self.network, self.criterion, self.optimizer = stepper.network, stepper.criterion, stepper.optimizer
        self.embedder = Embedder(stepper.evaluated, batches.pids)
        if stepper.compile_mode != "off" and stepper.device.type == "cuda":
            self.embedder.compile(dynamic=False)  # once for all evaluations
        self.extra_images = batches.extra_images
        self.monitor = TrainingMonitor(run.params.max_bad_steps)
        self.spectral = SpectralStart(run.params.model_params)
        stateful = {
            **stepper.stateful,
            "monitor": self.monitor,
            "spectral": self.spectral,
        }
        if self.extra_images is not None:
            stateful["extra_images"] = self.extra_images
        super().__init__(run, [self.optimizer], stateful)
        self.meter.ratios = self.criterion.ratios

    def begin_epoch(self) -> None:
        set_train_mode(self.network, fine_tune=self.params.fine_tune)
        self.spectral.begin_epoch(self.epoch)

    def end_epoch(self, means: Means) -> None:
        # Each process has normalised by its own batches; from here on all have the same running averages.
        self.stepper.average_buffers()
        self.spectral.end_epoch(means.metrics.get("accuracy", 0.0))

    def load_steps(self) -> Iterator[list[TrainBatch]]:
        return self.batches.steps(self.epoch, self.step)

    def train_step(self, batches: list[TrainBatch]) -> Tensor:
        self.stepper.freeze_backbone(self.step < self.params.lr.freeze_backbone_steps)
        set_learning_rates(self.optimizer, self.schedule.factor(self.step))
        is_logged = (self.step + 1) % self.params.log_every == 0
        gradients = self.stepper.backward(batches, self.step, spectral=self.spectral.acts, watch=is_logged)
        # A step with a loss or gradient that is not finite changes nothing; this is decided on the device.
        self.stepper.update(gradients.finite)
        losses = gradients.losses
        if self.extra_images is not None:
            losses = [self.extra_images.learn(batch, found) for batch, found in zip(batches, losses, strict=True)]
        self.meter.add(self.step, [batch.indices for batch in batches], losses, gradients.finite, gradients.silent)
        return gradients.finite

    def raise_if_diverged(self, steps: Sequence[StepValues]) -> None:
        if self.extra_images is not None:
            self.extra_images.check(self.step)
        rates = ", ".join(f"{name} {rate:g}" for name, rate in learning_rates(self.optimizer).items())
        self.monitor.inspect(steps, self.batches.paths, f"{rates}, precision {self.stepper.precision.name}")

    def evaluate(self) -> Evaluation:
        return evaluate(EvalContext(self.params, self.embedder.eval(), self.cache))

    def best_model(self, evaluation: Evaluation | None) -> Checkpoint:
        state = self.stepper.evaluated.state_dict()
        model = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        metrics = evaluation.metrics if evaluation else {}
        return Checkpoint(model, self.params.model_dump(mode="json"), self.batches.pids, metrics)

    def after_training(self) -> None:
        if self.extra_images is not None:
            self.extra_images.save(self.folder, self.batches.pids)
        self.spectral.warn_if_unused()

    def pictures(self) -> dict[str, Tensor]:
        return {} if self.extra_images is None else self.extra_images.pictures()

    def batch_pictures(self, batches: list[TrainBatch]) -> dict[str, Tensor]:
        return {"train/batch": denormalise(batches[0].pixels[:32], self.params.data_augmentation.normalisation)}

    def progress_values(self, means: Means) -> dict[str, float]:
        return {"loss": sum(means.losses.values()), "accuracy": means.metrics.get("accuracy", 0.0)}
