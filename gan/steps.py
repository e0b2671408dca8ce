"""A generator and a discriminator that learn from each other, one step after another."""

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
from losses.adversarial import (
    discriminator_loss,
    generator_loss,
    gradient_penalty_r1,
    gradient_penalty_wgan,
    interpolated,
)
from losses.loss import Losses
from models.generator import Discriminator, Generator
from utils.randomness import ADVERSARIES, REAL_PICTURES, seed_for


class RealBatch(NamedTuple):
    """What one update of the discriminator compares generated pictures to."""

    pictures: Tensor
    """(B, 3, H, W) float in -1..1."""
    conditions: Tensor | None = None
    """(B, D) embeddings of them, where the generator is conditioned on one."""


class GanStepper:
    """Takes the steps of a GAN. Whatever is drawn in a step follows from the seed and the step's number.

    Args:
        generator, discriminator: with the weights to start from, on their device.
        options: how they are trained.
        seed: of the run.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator, options: GanParams, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.device = next(generator.parameters()).device
        self.generator = generator.train()
        self.discriminator = discriminator.train()
        # What samples are of: less restless from step to step than the generator that is trained, and better.
        self.average = deepcopy(generator).eval().requires_grad_(False)
        self.optimizer_g = _adam(generator, "lr", options.lr, options)
        self.optimizer_d = _adam(discriminator, "lr_d", options.lr_d, options)
        self._random = torch.Generator(self.device)
        # On the device until somebody asks; what once was not finite spoils all that follows.
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    def step(self, batches: Sequence[RealBatch], number: int) -> Losses:
        """Update the discriminator once on each batch, and then the generator.

        Args:
            batches: `d_update_freq` of them.
            number: of the step, from 0.

        Returns:
            The losses "generator", "discriminator" and "penalty", means over the step's updates, and the mean scores
            of real and generated pictures; scalars on the device. A penalty that is not due counts as 0.
        """
        self._random.manual_seed(seed_for(ADVERSARIES, self.seed, number))
        # Counted in updates, so that it does not depend on the number of them in a step.
        first = number * len(batches)
        updates = [self._update_discriminator(batch, first + place) for place, batch in enumerate(batches)]
        loss = self._update_generator(batches[-1], number - self.options.preheat_steps)
        adversarial, penalty, real, fake = torch.stack(updates).mean(0).unbind()
        terms = {"generator": loss, "discriminator": adversarial, "penalty": penalty}
        self._finite = self._finite & torch.stack(list(terms.values())).isfinite().all()
        return Losses(terms, {"real_score": real, "fake_score": fake})

    def check(self, step: int) -> None:
        """See that all losses so far were finite, and that the weights are; waits for the device.

        Args:
            step: the last one taken, as people count, for the message.

        Raises:
            DivergedError: one was not.
        """
        # A last update may have spoilt weights of which no loss is known yet.
        norm = get_total_norm([*self.generator.parameters(), *self.discriminator.parameters()])
        if not (self._finite & norm.isfinite()):
            raise DivergedError(
                f"step {step} or shortly before: a loss of the generator or its discriminator is not finite; it is "
                'lost from there on: lower gan_params.lr and lr_d, keep spectral_norm and the penalty "r1", and begin '
                "anew"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the next steps come out."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.generator.load_state_dict(state_dict["generator"])
        self.discriminator.load_state_dict(state_dict["discriminator"])
        self.average.load_state_dict(state_dict["average"])
        self.optimizer_g.load_state_dict(state_dict["optimizer_g"])
        self.optimizer_d.load_state_dict(state_dict["optimizer_d"])

    def _update_discriminator(self, batch: RealBatch, update: int) -> Tensor:
        """One update; (4,): its loss, the penalty as weighted, the mean scores of real and generated pictures."""
        options, real = self.options, batch.pictures
        # As seldom as this a penalty works as well, and most updates cost half as much.
        is_due = options.penalty != "none" and update % options.penalty_every == 0
        with torch.no_grad():
            fake = self.generator(self._noise(len(real)), batch.conditions)
        if is_due and options.penalty == "r1":
            real = real.detach().requires_grad_()
        scores = self._scores(torch.cat([real, fake]), _twice(batch.conditions))
        of_real, of_fake = scores.chunk(2)
        loss = discriminator_loss(of_real, of_fake, options.loss)
        penalty = self._penalty(real, fake, of_real, batch.conditions) if is_due else torch.zeros_like(loss)
        self.optimizer_d.zero_grad(set_to_none=True)
        (loss + penalty).backward()
        self.optimizer_d.step()
        return torch.stack([loss, penalty, of_real.mean(), of_fake.mean()]).detach()

    def _penalty(self, real: Tensor, fake: Tensor, of_real: Tensor, conditions: Tensor | None) -> Tensor:
        options = self.options
        if options.penalty == "r1":
            value = gradient_penalty_r1(of_real, real) / 2
        else:
            between = interpolated(real, fake, self._random)
            value = gradient_penalty_wgan(self._scores(between, conditions), between)
        return options.penalty_weight * options.penalty_every * value

    def _update_generator(self, batch: RealBatch, update: int) -> Tensor:
        """One update, counted from 0, or only the loss as it is while that is negative."""
        learns = update >= 0
        # The discriminator's gradients would be computed for nothing.
        self.discriminator.requires_grad_(False)
        with torch.set_grad_enabled(learns):
            pictures = self.generator(self._noise(len(batch.pictures)), batch.conditions)
            loss = generator_loss(self._scores(pictures, batch.conditions), self.options.loss)
        self.discriminator.requires_grad_(True)
        if learns:
            self.optimizer_g.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer_g.step()
            self._move_average(update)
        return loss.detach()

    def _scores(self, pictures: Tensor, conditions: Tensor | None) -> Tensor:
        """What the discriminator says of pictures (B, 3, H, W), each changed at random."""
        height, width = pictures.shape[2:]
        changes = draw_changes(self.options.augmentation, len(pictures), height, width, self._random)
        return self.discriminator(change(pictures, changes), conditions)

    def _noise(self, batch: int) -> Tensor:
        return torch.randn(batch, self.generator.input_dim, generator=self._random, device=self.device)

    @torch.no_grad()
    def _move_average(self, update: int) -> None:
        """Of the weights, and of what the layers normalise with, lest the two belong to different times."""
        # At first over fewer steps: an average over a thousand would hold the initial weights for as long.
        decay = min(self.options.ema_decay, (1 + update) / (10 + update))
        for average, current in zip(_floating(self.average), _floating(self.generator), strict=True):
            average.lerp_(current, 1 - decay)


def _adam(net: nn.Module, name: str, lr: float, options: GanParams) -> Adam:
    """The optimizer of a network; its group carries the name of its learning rate."""
    return Adam([{"params": list(net.parameters()), "name": name}], lr, options.betas, fused=True)


def _floating(generator: Generator) -> list[Tensor]:
    """All numbers of a generator but for counters."""
    return [tensor for tensor in generator.state_dict().values() if tensor.is_floating_point()]


def _twice(conditions: Tensor | None) -> Tensor | None:
    return None if conditions is None else torch.cat([conditions, conditions])


def draw_mirrored(params: Params, count: int, number: int, device: torch.device) -> Tensor | None:
    """Which of the real images of a batch are mirrored, (count,) bool; None: none is to be."""
    if not params.data_augmentation.mirror:
        return None
    random = torch.Generator(device).manual_seed(seed_for(REAL_PICTURES, params.seed, number))
    return torch.rand(count, generator=random, device=device) < 0.5


def as_pictures(images: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Images (B, 3, H, W) uint8 -> float in -1..1, channels last, those of `mirrored` (B,) bool left-right."""
    pictures = images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
    return pictures if mirrored is None else torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
