"""The steps of one epoch of a generator's training."""

import time

import torch

from data.loader import load_batches
from engine.gan.training import GanTraining
from engine.pauses import Pauses
from engine.progress import Progress
from engine.recorder import Recorder
from engine.state_writer import StateWriter
from utils.interrupts import interrupts_noted


class GanSteps:
    """The steps of the epoch under way that are not taken yet, and what is looked at and saved between them.

    Args:
        training: says which; its counters move on.
        recorder: gets losses and scores every `log_every` steps, but for the last step's, which belong to the epoch's
            record.
        writer: gets the state when `checkpoint` asks for it, after the last step, and before the steps are left.
    """

    def __init__(self, training: GanTraining, recorder: Recorder, writer: StateWriter) -> None:
        self.training = training
        self.recorder = recorder
        self.pauses = Pauses(training, writer)
        self.per_step = training.params.gan_params.d_update_freq
        self.images_per_step = training.params.gan_params.batch_size * self.per_step
        self.first = training.epoch * training.steps_per_epoch
        self.batches = training.batches(training.epoch)

    def take(self) -> None:
        """Take them. The device is asked for values only every `log_every` steps.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            DivergedError: a loss is not finite; the state saved last is from before.
        """
        training = self.training
        if training.step == self.first:
            training.meter.begin_epoch()
            training.seconds = 0.0
        done = training.step - self.first
        left = self.batches[done * self.per_step :]
        # Each image's label is its own place, by which its condition is found.
        places = torch.arange(len(training.samples))
        loaded = load_batches(training.store, places, left, training.device)
        title = f"epoch {training.epoch + 1}/{training.num_epochs}"
        total = training.steps_per_epoch * self.images_per_step
        with interrupts_noted() as request, Progress(title, total, done * self.images_per_step) as progress:
            start = time.monotonic() - training.seconds
            step = []
            for batch in loaded:
                step.append(training.real(batch.images, batch.labels, training.step * self.per_step + len(step)))
                if len(step) < self.per_step:
                    continue
                losses = training.adversaries.step(step, training.step)
                finite = torch.stack(list(losses.losses.values())).isfinite().all()
                training.meter.add(training.step, [[]], [losses], finite, {})
                training.step += 1
                step = []
                self._look(progress)
                training.seconds = time.monotonic() - start
                self.pauses.after_step(request.number, self._collect)
            self.pauses.after_last_step(self._collect)

    def _look(self, progress: Progress) -> None:
        """Read what the steps came to, every so many of them."""
        training, number = self.training, self.training.step - self.first
        is_read = training.step % training.params.log_every == 0
        if is_read or number == training.steps_per_epoch:
            self._collect()
        if is_read and number < training.steps_per_epoch:
            recent = training.meter.read()
            self.recorder.scalars("train", {**recent.losses, **recent.measures}, training.step)
            progress.update(number * self.images_per_step, {**recent.losses})

    def _collect(self) -> None:
        """Read the steps since the last time. No step after a bad one is worth anything, and none is saved."""
        self.training.meter.collect()
        self.training.adversaries.check(self.training.step)
