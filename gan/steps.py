"""The steps of a GAN: generator and discriminator learn from each other."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Adam

from config.gan import GanParams
from config.params import Params
from data.augmentation.differentiable import change, draw_changes
from engine.monitor import DivergedError
from gan.checkpoint import load_snapshots
from gan.conditions import ConditionNetwork
from losses.adversarial import (
    discriminator_loss,
    generator_loss,
    gradient_penalty_r1,
    gradient_penalty_wgan,
    interpolated,
)
from losses.loss import Losses
from models.generator import Discriminator, Generator, build_discriminator, build_generator
from utils.randomness import ADVERSARIES, INITIAL_WEIGHTS, REAL_PICTURES, seed_for


class RealBatch(NamedTuple):
    """The real images of one update of the discriminator."""

    pictures: Tensor
    """(B, 3, H, W) float in -1..1."""
    conditions: Tensor | None = None
    """(B, D) their embeddings; None for an unconditional generator."""


class GanStepper:
    """Takes the steps of a GAN. All draws of a step follow from the seed and the step's number.

    Args:
        generator, discriminator: with their initial weights, on their device.
        options: how they are trained.
        seed: of the run.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator, options: GanParams, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.device = next(generator.parameters()).device
        self.generator = generator.train()
        self.discriminator = discriminator.train()
        # Samples come from the averaged generator: it is better than the trained one and varies less between steps.
        self.average = deepcopy(generator).eval().requires_grad_(False)
        self.optimizer_g = _adam(generator, "lr", options.lr, options)
        self.optimizer_d = _adam(discriminator, "lr_d", options.lr_d, options)
        self._random = torch.Generator(self.device)
        # Stays on the device until `check` reads it.
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    def step(self, batches: Sequence[RealBatch], number: int) -> Losses:
        """Update the discriminator once on each batch, then the generator.

        Args:
            batches: `d_update_freq` of them.
            number: of the step, from 0.

        Returns:
            The losses "generator", "discriminator" and "penalty", means over the updates of the step, and the mean
            scores of real and generated pictures; scalars on the device. A penalty that is not due counts as 0.
        """
        self._random.manual_seed(seed_for(ADVERSARIES, self.seed, number))
        # The penalty is due every so many updates, however many there are in a step.
        first = number * len(batches)
        updates = [self._update_discriminator(batch, first + place) for place, batch in enumerate(batches)]
        loss = self._update_generator(batches[-1], number - self.options.preheat_steps)
        adversarial, penalty, real, fake = torch.stack(updates).mean(0).unbind()
        losses = {"generator": loss, "discriminator": adversarial, "penalty": penalty}
        self._finite = self._finite & torch.stack(list(losses.values())).isfinite().all()
        return Losses(losses, {"real_score": real, "fake_score": fake})

    def check(self, step: int) -> None:
        """Check that all losses so far and the weights are finite; synchronises with the device.

        Args:
            step: the last one taken, counted from 1, for the message.

        Raises:
            DivergedError: one is not.
        """
        # The last update may have spoilt weights that no loss has been computed from yet.
        norm = get_total_norm([*self.generator.parameters(), *self.discriminator.parameters()])
        if not (self._finite & norm.isfinite()):
            raise DivergedError(
                f"step {step} or shortly before: a loss of the generator or its discriminator is not finite, and no "
                'later one will be: lower gan_params.lr and lr_d, keep spectral_norm and the penalty "r1", and start '
                "a new run"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next steps depend on."""
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for name, part in self._stateful().items():
            part.load_state_dict(state_dict[name])

    def _stateful(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "average", "optimizer_g", "optimizer_d")
        return {name: getattr(self, name) for name in names}

    def _update_discriminator(self, batch: RealBatch, update: int) -> Tensor:
        """One update; (4,): its loss, the weighted penalty, the mean scores of real and generated pictures."""
        options, real, conditions = self.options, batch.pictures, batch.conditions
        # A rare penalty works as well as one in every update, which would take twice as long.
        is_due = options.penalty != "none" and update % options.penalty_every == 0
        with torch.no_grad():
            fake = self.generator(self._noise(len(real)), conditions)
        if is_due and options.penalty == "r1":
            real = real.detach().requires_grad_()
        twice = None if conditions is None else torch.cat([conditions, conditions])
        real_scores, fake_scores = self._scores(torch.cat([real, fake]), twice).chunk(2)
        loss = discriminator_loss(real_scores, fake_scores, options.loss)
        penalty = self._penalty(real, fake, real_scores, conditions) if is_due else torch.zeros_like(loss)
        self.optimizer_d.zero_grad(set_to_none=True)
        (loss + penalty).backward()
        self.optimizer_d.step()
        return torch.stack([loss, penalty, real_scores.mean(), fake_scores.mean()]).detach()

    def _penalty(self, real: Tensor, fake: Tensor, real_scores: Tensor, conditions: Tensor | None) -> Tensor:
        options = self.options
        if options.penalty == "r1":
            value = gradient_penalty_r1(real_scores, real) / 2
        else:
            between = interpolated(real, fake, self._random)
            value = gradient_penalty_wgan(self._scores(between, conditions), between)
        return options.penalty_weight * options.penalty_every * value

    def _update_generator(self, batch: RealBatch, update: int) -> Tensor:
        """One update, counted from 0; a negative one only computes the loss."""
        learns = update >= 0
        # The gradients of the discriminator's weights are not needed.
        self.discriminator.requires_grad_(False)
        with torch.set_grad_enabled(learns):
            pictures = self.generator(self._noise(len(batch.pictures)), batch.conditions)
            loss = generator_loss(self._scores(pictures, batch.conditions), self.options.loss)
        self.discriminator.requires_grad_(True)
        if learns:
            self.optimizer_g.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer_g.step()
            self._update_average(update)
        return loss.detach()

    def _scores(self, pictures: Tensor, conditions: Tensor | None) -> Tensor:
        """The discriminator's scores of pictures (B, 3, H, W), augmented."""
        height, width = pictures.shape[2:]
        changes = draw_changes(self.options.augmentation, len(pictures), height, width, self._random)
        return self.discriminator(change(pictures, changes), conditions)

    def _noise(self, batch: int) -> Tensor:
        return torch.randn(batch, self.generator.input_dim, generator=self._random, device=self.device)

    @torch.no_grad()
    def _update_average(self, update: int) -> None:
        """Move the average of weights and of batch normalisation's statistics towards the generator's."""
        # The decay grows with the updates, so that the initial weights are soon forgotten.
        decay = min(self.options.ema_decay, (1 + update) / (10 + update))
        for average, current in zip(_floating(self.average), _floating(self.generator), strict=True):
            average.lerp_(current, 1 - decay)


def build_stepper(
    params: Params, network: ConditionNetwork | None, device: torch.device, *, resume: bool = False
) -> GanStepper:
    """Generator and discriminator of `gan_params` on their device, with the weights that training starts from.

    Args:
        params: of the run.
        network: makes the embeddings they are conditioned on; None: they are unconditional.
        device: where they compute.
        resume: whether their weights will come from a saved state; snapshots are not read then.

    Raises:
        DataError: a snapshot cannot be read or does not fit.
    """
    gan, condition_dim = params.gan_params, 0 if network is None else network.dim
    torch.manual_seed(seed_for(INITIAL_WEIGHTS, params.seed))
    generator, discriminator = build_generator(gan, condition_dim), build_discriminator(gan, condition_dim)
    if not resume:
        load_snapshots(generator, discriminator, gan)
    if network is not None:
        network.note_digest(generator)
    for net in (generator, discriminator):
        # Channels last is the layout in which convolutions are fastest, on the CPU as on a GPU.
        net.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return GanStepper(generator, discriminator, gan, params.seed)


def _adam(net: nn.Module, name: str, lr: float, options: GanParams) -> Adam:
    """The optimizer of a network; its parameter group carries the name of its learning rate."""
    return Adam([{"params": list(net.parameters()), "name": name}], lr, options.betas, fused=True)


def _floating(generator: Generator) -> list[Tensor]:
    """All weights and buffers except counters."""
    return [tensor for tensor in generator.state_dict().values() if tensor.is_floating_point()]


def real_pictures(images: Tensor, number: int, params: Params) -> Tensor:
    """Images (B, 3, H, W) uint8 -> pictures as a GAN sees them, half of them mirrored if the params say so.

    Args:
        images: of one batch.
        number: of the batch; which images are mirrored follows from it and the seed.
        params: of the run.
    """
    pictures = as_pictures(images)
    if not params.data_augmentation.mirror:
        return pictures
    random = torch.Generator(images.device).manual_seed(seed_for(REAL_PICTURES, params.seed, number))
    is_mirrored = torch.rand(len(images), generator=random, device=images.device) < 0.5
    return torch.where(is_mirrored[:, None, None, None], pictures.flip(3), pictures)


def as_pictures(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 -> float in -1..1, channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
