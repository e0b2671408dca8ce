"""The training of a person generator: the loop of engine/trainer.py with steps and metrics of its own."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from config.params import Params
from data.cache import ImageStore, build_store
from data.dataset import log_summary, read_dataset, without_bad_images
from data.loader import load_batches
from data.samplers import random_batches
from data.samples import Dataset, sorted_pids
from engine.consistency import run_fingerprint
from engine.meter import StepValues
from engine.run import Run, RunFolder, TrainingPlan
from engine.trainer import Trainer
from evaluate.core.plugins import Evaluation
from gan.checkpoint import generator_checkpoint
from gan.conditions import ConditionNetwork
from gan.quality import Quality, build_quality
from gan.sampling import sample_grid
from gan.steps import GanStepper, RealBatch, build_stepper, real_pictures
from utils.checkpoint import GENERATOR, Checkpoint
from utils.distributed import this_process
from utils.errors import DataError, ParamsError
from utils.memory import explain_oom

logger = logging.getLogger(__name__)

MIN_IMAGES = 6
"""Real images that precision and recall need."""


class GanTrainer(Trainer):
    """Trains a person generator, and measures it by FID if `gan_params.measured_by` names a network for that.

    Args:
        run: as of `Trainer`.
        pids: sorted pids of the training images.
        num_images: N, the training images.
        store: serves them in the size of the generated ones.
        conditions: (N, D) their embeddings on the device; None for an unconditional generator.
        stepper: generator, discriminator and their optimizers.
        quality: measures the generator; None: it is not measured.
    """

    best_file, epochs_key = GENERATOR, "gan_params.epoch"

    def __init__(
        self,
        run: Run,
        pids: list[int],
        num_images: int,
        store: ImageStore,
        conditions: Tensor | None,
        stepper: GanStepper,
        quality: Quality | None,
    ) -> None:
        super().__init__(run, [stepper.optimizer_g, stepper.optimizer_d], {"gan": stepper})
        self.pids = pids
        self.num_images = num_images
        self.store = store
        self.conditions = conditions
        self.stepper = stepper
        self.quality = quality

    def load_steps(self) -> Iterator[list[RealBatch]]:
        """The real images of each remaining step, a batch for every update of the discriminator."""
        gan, first = self.params.gan_params, self.epoch * self.plan.steps_per_epoch
        batches = batches_of_epoch(self.params, self.num_images, self.epoch)
        remaining = batches[(self.step - first) * gan.d_update_freq :]
        # The label of an image is its index, to look up its condition.
        loaded = load_batches(self.store, torch.arange(self.num_images), remaining, self.device)
        step: list[RealBatch] = []
        for number, batch in enumerate(loaded, start=self.step * gan.d_update_freq):
            conditions = None if self.conditions is None else self.conditions[batch.labels]
            step.append(RealBatch(real_pictures(batch.images, number, self.params), conditions))
            if len(step) == gan.d_update_freq:
                yield step
                step = []

    def train_step(self, batches: list[RealBatch]) -> Tensor:
        """Update the discriminator once on each batch, then the generator."""
        losses = self.stepper.step(batches, self.step)
        finite = torch.stack(list(losses.losses.values())).isfinite().all()
        self.meter.add(self.step, [[]], [losses], finite, {})
        return finite

    def raise_if_diverged(self, steps: Sequence[StepValues]) -> None:
        """Check that weights and losses are finite: a GAN does not recover from a step that was not."""
        self.stepper.check(self.step)

    def evaluate(self) -> Evaluation:
        """FID and the other metrics; the score is -FID."""
        assert self.quality is not None
        return self.quality.evaluate(self.stepper.average)

    def best_model(self, evaluation: Evaluation | None) -> Checkpoint:
        """The averaged generator and the discriminator."""
        metrics = {} if evaluation is None else evaluation.metrics
        return generator_checkpoint(self.stepper.average, self.stepper.discriminator, self.params, self.pids, metrics)

    def pictures(self) -> dict[str, Tensor]:
        """Samples, always from the same noise."""
        return {"samples": sample_grid(self.stepper.average, self.conditions, self.params.seed)}


def check_gan_params(params: Params) -> None:
    """Check that params fit train_gan.

    Raises:
        ParamsError: `parallels` names several devices, or generated images are to be mixed in.
    """
    if len(params.parallels) > 1:
        raise ParamsError(f"parallels: train_gan trains on one device, got {len(params.parallels)}; name one")
    if params.gan_params.mix_ratio > 0:
        raise ParamsError("gan_params.mix_ratio: is for start_train, where a re-ID network learns; set 0 for train_gan")


def build_gan_trainer(params: Params, folder: RunFolder, device: torch.device, resume: bool = False) -> GanTrainer:
    """The trainer of a generator. Initial weights and all later draws follow from `params.seed`.

    A run to `resume` gets its weights from its saved state, so the snapshots it started from are not read again.

    Raises:
        DataError: the data set cannot be used, or a network named is missing or does not fit.
        ParamsError: the settings do not fit the data, or there are several processes.
    """
    if this_process().world_size > 1:
        raise ParamsError(f"a generator is trained by one process, and there are {this_process().world_size}")
    dataset = read_gan_data(params)
    plan = plan_gan_training(params, len(dataset.train), device)
    logger.info("%s", describe_gan_training(params, plan))
    with explain_oom(f"putting the generator on {device}", "lower gan_params.ngf and ndf"):
        gan, samples = params.gan_params, dataset.train
        network = ConditionNetwork(gan.condition) if gan.condition else None
        conditions = None if network is None else network.embed(samples, device)
        store = build_store([sample.path for sample in samples], params.generator_resize, params.data_cache, device)
        stepper = build_stepper(params, network, device, resume=resume)
        quality = build_quality(params, dataset, store, conditions, device)
    others = {
        "kind of device": device.type,
        "network of gan_params.condition": None if network is None else network.digest,
        "network of gan_params.measured_by": None if quality is None else quality.network.digest,
    }
    run = Run(params, folder, device, plan, run_fingerprint(params, dataset, others))
    return GanTrainer(run, sorted_pids(samples), len(samples), store, conditions, stepper, quality)


def read_gan_data(params: Params) -> Dataset:
    """The data set, checked and summarised.

    Raises:
        DataError: it cannot be used, or has too few training images.
        ParamsError: a batch is larger than the training set.
    """
    dataset = without_bad_images(read_dataset(params), params)
    log_summary(dataset, params)
    number, batch_size = len(dataset.train), params.gan_params.batch_size
    if number < MIN_IMAGES:
        raise DataError(f"{params.data_name}: {number} training images; a generator learns from at least {MIN_IMAGES}")
    if batch_size > number:
        raise ParamsError(f"gan_params.batch_size: {batch_size} is more than the {number} training images; lower it")
    return dataset


def batches_of_epoch(params: Params, num_images: int, epoch: int) -> list[list[int]]:
    """An epoch's batches as indices of training images, a whole number of steps of them."""
    gan, rng = params.gan_params, np.random.default_rng([params.seed, epoch])
    return random_batches(num_images, gan.batch_size, rng, gan.d_update_freq)


def plan_gan_training(params: Params, num_images: int, device: torch.device) -> TrainingPlan:
    """The plan of a generator's training.

    Raises:
        ParamsError: the generator would not be updated in any step.
    """
    gan = params.gan_params
    steps = len(batches_of_epoch(params, num_images, 0)) // gan.d_update_freq
    if gan.preheat_steps >= (total := gan.epoch * steps):
        raise ParamsError(f"gan_params.preheat_steps: {gan.preheat_steps} of {total} steps leave none to the generator")
    return TrainingPlan(
        num_epochs=gan.epoch,
        steps_per_epoch=steps,
        images_per_step=gan.batch_size * gan.d_update_freq,
        evaluate_every=0 if gan.measured_by == "none" else gan.measure_epochs,
        evaluate_at_start=True,
        memory_use=f"training a generator on {device} with {gan.batch_size} pictures of {gan.img_h} x {gan.img_h // 2}",
        memory_advice="lower gan_params.batch_size, ngf, ndf or img_h",
    )


def describe_gan_training(params: Params, plan: TrainingPlan) -> str:
    """The arithmetic of a run, in a line."""
    gan = params.gan_params
    updates = "" if gan.d_update_freq == 1 else f", in each {gan.d_update_freq} updates of the discriminator"
    whom = "anybody" if not gan.condition else "the person of an embedding"
    return (
        f"{gan.epoch} epochs of {plan.steps_per_epoch} steps{updates}, of {gan.batch_size} images each; "
        f"pictures of {gan.img_h}x{gan.img_h // 2} of {whom}"
    )
