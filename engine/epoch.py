"""The steps of one epoch, and what is looked at and saved in between."""

import time

from engine.batches import train_batches
from engine.health import DivergedError, sampler_complaint
from engine.meter import Means
from engine.optim import learning_rates, set_learning_rates, set_train_mode
from engine.pauses import Pauses
from engine.progress import Progress
from engine.recorder import Recorder
from engine.schedule import lr_factor
from engine.state_writer import StateWriter
from engine.train_batch import TrainBatch
from engine.training import Training
from losses.loss import Losses
from utils.distributed import this_process
from utils.errors import ReportedByOtherRankError
from utils.interrupts import interrupts_noted


class EpochSteps:
    """The steps of the epoch under way that are not taken yet, and what is looked at and saved between them.

    Args:
        training: says which; its counters move on.
        recorder: gets the losses every `log_every` steps, but for the last step's, which belong to the epoch's record.
        writer: gets the state when `checkpoint` asks for it, after the last step, and before the steps are left.
    """

    def __init__(self, training: Training, recorder: Recorder, writer: StateWriter) -> None:
        self.training = training
        self.recorder = recorder
        self.writer = writer
        self.pauses = Pauses(training, writer)
        params, dist = training.params, this_process()
        self.batches = training.batches(training.epoch)
        self.num_steps = training.steps_per_epoch
        self.first = training.epoch * self.num_steps
        self.images_per_step = params.batch_images * params.accumulate_steps * dist.world_size
        self.spectral = training.spectral_acts()

    def take(self) -> None:
        """Take them. The device is asked for values only every `log_every` steps.

        Raises:
            Interrupted, DivergedError: as `fit`.
        """
        training, params, dist = self.training, self.training.params, this_process()
        set_train_mode(training.network, fine_tune=params.fine_tune)
        if training.step == self.first:
            training.meter.begin_epoch()
            training.seconds = 0.0
            self._look_at_batches()
        done = training.step - self.first
        left = self.batches[done * params.accumulate_steps :]
        total = self.num_steps * self.images_per_step
        with interrupts_noted() as request, Progress(self._title(), total, done * self.images_per_step) as progress:
            start = time.monotonic() - training.seconds
            for batches in train_batches(training, [batch[dist.share(len(batch))] for batch in left]):
                if training.step == 0:
                    self.recorder.batch(batches[0].pixels, params.data_augmentation.normalisation, 1)
                self._step(batches, progress)
                training.seconds = time.monotonic() - start
                self.pauses.after_step(request.number, self._collect)
            self.pauses.after_last_step(self._collect)

    def _step(self, batches: list[TrainBatch], progress: Progress) -> None:
        """One step: losses, gradients, and then the weights."""
        training, params = self.training, self.training.params
        stepper, number = training.stepper, training.step - self.first + 1
        balanced = params.batch_sampling_params.class_balanced
        factor = lr_factor(params.lr, training.step, self.num_steps, class_balanced=balanced)
        rates = set_learning_rates(stepper.optimizer, params, factor)
        is_read = (training.step + 1) % params.log_every == 0
        found = stepper.gradients(batches, training.step, self.spectral, watch=is_read)
        self.writer.wait_until_copied()
        stepper.update(found.finite)
        losses = self._teach_generator(batches, found.losses)
        images = self.batches[(number - 1) * params.accumulate_steps : number * params.accumulate_steps]
        training.meter.add(training.step, images, losses, found.finite, found.silent)
        training.step += 1
        # On a CPU it costs nothing to know at once whether a step came to nothing.
        if is_read or number == self.num_steps or (found.finite.device.type == "cpu" and not found.finite):
            self._collect()
        if is_read and number < self.num_steps:
            recent = training.meter.read()
            self.recorder.scalars("train", {**recent.losses, **recent.measures, **rates}, training.step)
            progress.update(number * self.images_per_step, shown(recent))

    def _teach_generator(self, batches: list[TrainBatch], found: list[Losses]) -> list[Losses]:
        """Let a generator that is trained along learn from the batches; adds what that came to to the measures."""
        training = self.training
        if training.mixing is None:
            return found
        first = training.step * len(batches)
        learnt = [training.mixing.learn(batch.real, first + place) for place, batch in enumerate(batches)]
        return [losses._replace(metrics={**losses.metrics, **more}) for losses, more in zip(found, learnt, strict=True)]

    def _collect(self) -> None:
        """Read what the steps since the last time came to, and look whether they are as they should be."""
        training = self.training
        if training.mixing is not None:
            training.mixing.check(training.step)
        for step in training.meter.collect():
            # As people count, and as the curves do: the first step is step 1.
            number = step.number + 1
            if step.is_finite:
                training.health.good_step(number, sum(step.losses.values()))
                if step.silent is not None:
                    training.health.silent_branches(step.silent, number)
                continue
            files = [training.images[image] for image in step.bad_images]
            try:
                training.health.bad_step(number, step.losses, files, self._circumstances())
            except DivergedError:
                self.pauses.save(now=True)
                # All have found it out; that of the first gets into train_log as well.
                if not this_process().is_rank_zero:
                    raise ReportedByOtherRankError from None
                raise

    def _look_at_batches(self) -> None:
        """Warn of a sampler that does not do what it should."""
        training = self.training
        previous = training.batches(training.epoch - 1) if training.epoch else None
        wants_triplets = "triplet" in training.criterion
        labels = training.labels.tolist()
        complaint = sampler_complaint(self.batches, labels, previous, len(labels), wants_triplets)
        training.health.complain("sampler", complaint)

    def _title(self) -> str:
        return f"epoch {self.training.epoch + 1}/{self.training.params.epoch}"

    def _circumstances(self) -> str:
        """What a message about bad numbers says of the run."""
        rates = learning_rates(self.training.stepper.optimizer)
        rates_text = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        return f"{rates_text}, precision {self.training.stepper.precision.name}"


def shown(means: Means) -> dict[str, float]:
    """What the screen shows of means."""
    return {"loss": sum(means.losses.values()), "accuracy": means.measures.get("accuracy", 0.0)}
