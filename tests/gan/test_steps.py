"""A step of generator and discriminator against the same written out with plain torch."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.gan import GanParams
from data.augmentation.differentiable import change, draw_changes
from engine.monitor import DivergedError
from gan.steps import GanStepper, RealBatch
from losses.loss import Losses
from models.generator import Discriminator, Generator, build_discriminator, build_generator
from utils.checkpoint import load_tensors, save_tensors
from utils.randomness import ADVERSARIES, seed_for

SEED = 7
SMALL: dict[str, Any] = {
    "img_h": 64, "input_dim": 6, "ngf": 4, "ndf": 4, "batch_size": 4, "lr": 3e-3, "lr_d": 5e-3, "betas": (0.5, 0.9),
    "d_update_freq": 1, "preheat_steps": 0, "loss": "hinge", "penalty": "none", "penalty_weight": 2.0,
    "penalty_every": 3, "augmentation": (), "ema_decay": 0.6, "spectral_norm": False,
}  # fmt: skip
"""Nothing is left to the defaults."""


def options_of(**changes: Any) -> GanParams:
    return GanParams(**{**SMALL, **changes})


def make_nets(options: GanParams, condition_dim: int = 0) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    nets = build_generator(options, condition_dim), build_discriminator(options, condition_dim)
    with torch.no_grad():
        for net in nets:
            for parameter in net.parameters():
                # Far enough from the initial weights for a score to tell one picture from another.
                parameter.mul_(4)
    return nets


def make_stepper(condition_dim: int = 0, seed: int = SEED, **changes: Any) -> GanStepper:
    options = options_of(**changes)
    return GanStepper(*make_nets(options, condition_dim), options, seed)


def make_batch(number: int, condition_dim: int = 0) -> RealBatch:
    random = torch.Generator().manual_seed(100 + number)
    pictures = torch.rand(4, 3, 64, 32, generator=random) * 2 - 1
    return RealBatch(pictures, torch.randn(4, condition_dim, generator=random) if condition_dim else None)


def batches_of(options: GanParams, step: int, condition_dim: int = 0) -> list[RealBatch]:
    return [make_batch(step * options.d_update_freq + place, condition_dim) for place in range(options.d_update_freq)]


def train(stepper: GanStepper, steps: range, condition_dim: int = 0) -> list[Losses]:
    return [stepper.step(batches_of(stepper.options, step, condition_dim), step) for step in steps]


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    if isinstance(value, Tensor):
        return [value.clone()]
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for entry in entries for tensor in tensors_of(entry)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    assert len(one) == len(other) > 0
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


class Reference:
    """The same steps in plain torch, one term and one update after another."""

    def __init__(self, options: GanParams, condition_dim: int = 0) -> None:
        self.options = options
        self.generator, self.discriminator = make_nets(options, condition_dim)
        self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self.optimizer_g: torch.optim.Optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=options.lr, betas=options.betas
        )
        self.optimizer_d: torch.optim.Optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=options.lr_d, betas=options.betas
        )
        self.updates = {"generator": 0, "discriminator": 0}
        self.penalties: list[float] = []

    def copy_state(self, stepper: GanStepper) -> None:
        """So that rounding does not add up from step to step."""
        self.generator.load_state_dict(stepper.generator.state_dict())
        self.discriminator.load_state_dict(stepper.discriminator.state_dict())
        self.average = {name: value.clone() for name, value in stepper.average.state_dict().items()}
        for own, other in ((self.optimizer_g, stepper.optimizer_g), (self.optimizer_d, stepper.optimizer_d)):
            own.load_state_dict({**own.state_dict(), "state": deepcopy(other.state_dict()["state"])})

    def step(self, batches: list[RealBatch], number: int) -> dict[str, float]:
        random = torch.Generator().manual_seed(seed_for(ADVERSARIES, SEED, number))
        found = [self.discriminate(batch, random) for batch in batches]
        values = {name: math.fsum(each[name] for each in found) / len(found) for name in found[0]}
        values["generator"] = self.generate(batches[-1], random, learns=number >= self.options.preheat_steps)
        return values

    def noise(self, batch: RealBatch, random: torch.Generator) -> Tensor:
        return torch.randn(len(batch.pictures), self.options.input_dim, generator=random)

    def seen(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        return change(pictures, draw_changes(self.options.augmentation, len(pictures), 64, 32, random))

    def discriminate(self, batch: RealBatch, random: torch.Generator) -> dict[str, float]:
        options, whom = self.options, batch.conditions
        fake = self.generator(self.noise(batch, random), whom).detach()
        real = batch.pictures.clone().requires_grad_()
        both = None if whom is None else torch.cat([whom, whom])
        scores = self.discriminator(self.seen(torch.cat([real, fake]), random), both)
        of_real, of_fake = scores[:4], scores[4:]
        match options.loss:
            case "hinge":
                loss = (1 - of_real).clamp(min=0).mean() + (1 + of_fake).clamp(min=0).mean()
            case "non_saturating":
                loss = -F.logsigmoid(of_real).mean() - F.logsigmoid(-of_fake).mean()
            case "wgan":
                loss = of_fake.mean() - of_real.mean()
        penalty = torch.zeros(())
        if options.penalty != "none" and self.updates["discriminator"] % options.penalty_every == 0:
            if options.penalty == "r1":
                gradients = [
                    torch.autograd.grad(score, real, create_graph=True)[0][place] for place, score in enumerate(of_real)
                ]
                penalty = torch.stack([gradient.square().sum() / 2 for gradient in gradients]).mean()
            else:
                share = torch.rand(4, 1, 1, 1, generator=random)
                between = (share * batch.pictures + (1 - share) * fake).requires_grad_()
                of_between = self.discriminator(self.seen(between, random), whom)
                gradients = [
                    torch.autograd.grad(score, between, create_graph=True)[0][place]
                    for place, score in enumerate(of_between)
                ]
                penalty = torch.stack([(gradient.norm() - 1) ** 2 for gradient in gradients]).mean()
            penalty = options.penalty_weight * options.penalty_every * penalty
        self.optimizer_d.zero_grad()
        (loss + penalty).backward()
        self.optimizer_d.step()
        self.updates["discriminator"] += 1
        self.penalties.append(penalty.item())
        return {
            "discriminator": loss.item(),
            "penalty": penalty.item(),
            "real_score": of_real.mean().item(),
            "fake_score": of_fake.mean().item(),
        }

    def generate(self, batch: RealBatch, random: torch.Generator, *, learns: bool) -> float:
        pictures = self.generator(self.noise(batch, random), batch.conditions)
        scores = self.discriminator(self.seen(pictures, random), batch.conditions)
        loss = -F.logsigmoid(scores).mean() if self.options.loss == "non_saturating" else -scores.mean()
        if not learns:
            return loss.item()
        self.optimizer_g.zero_grad()
        loss.backward()
        self.optimizer_g.step()
        decay = min(self.options.ema_decay, (1 + self.updates["generator"]) / (10 + self.updates["generator"]))
        self.updates["generator"] += 1
        for name, value in self.generator.state_dict().items():
            if value.is_floating_point():
                self.average[name] = decay * self.average[name] + (1 - decay) * value
        return loss.item()


def share_of_different(net: nn.Module, expected: dict[str, Tensor], atol: float = 1e-4) -> float:
    """Share of the weights and buffers that differ; an update of Adam is of some thousandths."""
    pairs = [(value, expected[name]) for name, value in net.state_dict().items() if value.is_floating_point()]
    differences = torch.cat([(value - other).abs().flatten() for value, other in pairs])
    return (differences > atol).float().mean().item()


@pytest.mark.parametrize(
    ("changes", "condition_dim"),
    [
        ({}, 0),
        ({"loss": "non_saturating", "penalty": "r1"}, 0),
        ({"loss": "wgan", "penalty": "wgan_gp", "d_update_freq": 2}, 0),
        ({"penalty": "r1", "penalty_every": 1, "augmentation": ("colour", "translation", "cutout")}, 5),
        ({"penalty": "wgan_gp", "d_update_freq": 3, "penalty_every": 2, "spectral_norm": True, "preheat_steps": 1}, 5),
    ],
)
def test_steps_are_those_of_the_plain_reference(changes: dict[str, Any], condition_dim: int) -> None:
    stepper = make_stepper(condition_dim, **changes)
    reference = Reference(options_of(**changes), condition_dim)
    for step in range(4):
        batches = batches_of(stepper.options, step, condition_dim)
        reference.copy_state(stepper)
        losses, expected = stepper.step(batches, step), reference.step(batches, step)
        found = {name: value.item() for name, value in {**losses.losses, **losses.metrics}.items()}
        assert set(found) == {"generator", "discriminator", "penalty", "real_score", "fake_score"}
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (step, name)
        assert not any(value.requires_grad for value in losses.losses.values())
        for net, other in (
            (stepper.generator, reference.generator.state_dict()),
            (stepper.discriminator, reference.discriminator.state_dict()),
            (stepper.average, reference.average),
        ):
            # Adam moves a weight whose gradient is next to nothing by as much as any: there rounding decides where to.
            assert share_of_different(net, other) < 0.01
    assert any(value != 0 for value in reference.penalties) == (stepper.options.penalty != "none")


def test_the_gradients_are_those_of_the_plain_reference() -> None:
    """Descent goes by the size of a gradient, where Adam's first update goes by its sign alone."""
    stepper, reference = make_stepper(), Reference(options_of())
    batch = make_batch(0)
    stepper.optimizer_d = torch.optim.SGD(stepper.discriminator.parameters(), lr=0.1)  # pyright: ignore[reportAttributeAccessIssue]
    stepper.optimizer_g = torch.optim.SGD(stepper.generator.parameters(), lr=0.1)  # pyright: ignore[reportAttributeAccessIssue]
    reference.optimizer_d = torch.optim.SGD(reference.discriminator.parameters(), lr=0.1)
    reference.optimizer_g = torch.optim.SGD(reference.generator.parameters(), lr=0.1)
    stepper.step([batch], 0)
    reference.step([batch], 0)
    for net, other, initial in (
        (stepper.generator, reference.generator, make_nets(options_of())[0]),
        (stepper.discriminator, reference.discriminator, make_nets(options_of())[1]),
    ):
        assert share_of_different(net, other.state_dict(), atol=1e-6) == 0
        before = dict(initial.named_parameters())
        unchanged = {name for name, value in net.named_parameters() if torch.equal(value, before[name])}
        # While no score reaches its margin, real and generated pictures pull at the last bias alike.
        assert unchanged <= {"score.bias"}


@pytest.mark.parametrize(("penalty", "d_update_freq"), [("r1", 1), ("r1", 2), ("wgan_gp", 1)])
def test_a_penalty_is_due_every_so_many_updates_and_weighs_so_much_more(penalty: str, d_update_freq: int) -> None:
    stepper = make_stepper(penalty=penalty, d_update_freq=d_update_freq, penalty_every=3)
    found = [losses.losses["penalty"].item() for losses in train(stepper, range(7))]
    due = [any((step * d_update_freq + place) % 3 == 0 for place in range(d_update_freq)) for step in range(7)]
    assert [value > 0 for value in found] == due
    assert 0 < sum(due) < 7
    # In the same first update, a penalty that is due a third as often counts three times as much.
    first = {
        every: make_stepper(penalty=penalty, penalty_every=every).step([make_batch(0)], 0).losses["penalty"].item()
        for every in (1, 3)
    }
    assert first[3] == pytest.approx(3 * first[1], rel=1e-6)


def test_weights_and_statistics_are_averaged_with_a_growing_decay() -> None:
    stepper = make_stepper(ema_decay=0.3)
    expected = {name: value.clone() for name, value in stepper.average.state_dict().items()}
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]):
        train(stepper, range(step, step + 1))
        for name, value in stepper.generator.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    assert any(name.endswith("running_mean") for name in expected)
    assert share_of_different(stepper.average, expected, atol=2e-6) == 0
    assert not stepper.average.training
    assert not any(parameter.requires_grad for parameter in stepper.average.parameters())


@pytest.mark.parametrize(
    "changes",
    [{}, {"penalty": "r1", "spectral_norm": True, "d_update_freq": 2, "preheat_steps": 3, "augmentation": ("cutout",)}],
)
def test_from_a_state_the_next_steps_are_the_same_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, again = make_stepper(5, **changes), make_stepper(5, **changes)
    train(whole, range(2), 5)
    save_tensors(tmp_path / "state", {"gan": whole.state_dict()})
    again.load_state_dict(load_tensors(tmp_path / "state")["gan"])
    torch.rand(10)  # what was drawn elsewhere does not matter
    found, expected = train(again, range(2, 5), 5), train(whole, range(2, 5), 5)
    for one, other in zip(found, expected, strict=True):
        assert same(tensors_of({**one.losses, **one.metrics}), tensors_of({**other.losses, **other.metrics}))
    assert same(tensors_of(again.state_dict()), tensors_of(whole.state_dict()))


def test_a_state_holds_all_that_a_step_changes() -> None:
    stepper = make_stepper(penalty="r1", spectral_norm=True)
    assert set(stepper.state_dict()) == {"generator", "discriminator", "average", "optimizer_g", "optimizer_d"}
    for name in stepper.state_dict():
        whole, again = make_stepper(penalty="r1", spectral_norm=True), make_stepper(spectral_norm=True)
        train(whole, range(2))
        part = whole.state_dict() | {name: again.state_dict()[name]}
        again = make_stepper(penalty="r1", spectral_norm=True)
        again.load_state_dict(part)
        train(whole, range(2, 4))
        train(again, range(2, 4))
        assert not same(tensors_of(again.average.state_dict()), tensors_of(whole.average.state_dict())), name


def test_what_is_drawn_follows_from_the_seed_and_the_step() -> None:
    first, second, other = (make_stepper(seed=seed, augmentation=("translation",)) for seed in (3, 3, 4))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(first, range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    train(second, range(2))
    train(other, range(2))
    assert same(tensors_of(first.state_dict()), tensors_of(second.state_dict()))
    assert not same(tensors_of(first.state_dict()), tensors_of(other.state_dict()))
    # Two steps that see the same images do not draw the same.
    losses = [make_stepper(seed=3).step([make_batch(0)], number).losses["discriminator"] for number in (0, 1)]
    assert not torch.equal(*losses)


def test_weights_that_are_not_finite_are_noticed_before_any_loss_is() -> None:
    stepper = make_stepper()
    train(stepper, range(2))
    stepper.check(2)
    with torch.no_grad():
        stepper.generator.last.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(DivergedError, match="step 2 or shortly before"):
        stepper.check(2)
