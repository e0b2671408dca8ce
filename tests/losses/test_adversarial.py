import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from losses.adversarial import (
    AdversarialLoss,
    discriminator_loss,
    generator_loss,
    gradient_penalty_r1,
    gradient_penalty_wgan,
    interpolated,
)

REAL, FAKE = [2.0, -0.5, 0.0, 7.0], [-1.0, 0.25, 3.0, -6.0]
PENALTIES = pytest.mark.parametrize("penalty", [gradient_penalty_r1, gradient_penalty_wgan])
KINDS = pytest.mark.parametrize("kind", ["non_saturating", "hinge", "wgan"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def critic(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Scores (B,) of a smooth network with weights (K, 3 * H * W) and (K,)."""
    return torch.tanh(images.flatten(1) @ first.T) @ second


def probability(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_the_non_saturating_losses_are_log_likelihoods() -> None:
    found = discriminator_loss(torch.tensor(REAL), torch.tensor(FAKE), "non_saturating")
    expected = -math.fsum(math.log(probability(score)) for score in REAL) / 4
    expected -= math.fsum(math.log(1 - probability(score)) for score in FAKE) / 4
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-6)
    expected = -math.fsum(math.log(probability(score)) for score in FAKE) / 4
    assert generator_loss(torch.tensor(FAKE), "non_saturating").item() == pytest.approx(expected, rel=1e-6)


def test_the_wasserstein_losses_are_differences_of_means() -> None:
    found = discriminator_loss(torch.tensor(REAL), torch.tensor(FAKE), "wgan")
    assert found.item() == pytest.approx(sum(FAKE) / 4 - sum(REAL) / 4)
    assert generator_loss(torch.tensor(FAKE), "wgan").item() == pytest.approx(-sum(FAKE) / 4)


def test_the_hinge_gains_nothing_beyond_its_margins() -> None:
    found = discriminator_loss(torch.tensor(REAL), torch.tensor(FAKE), "hinge")
    expected = sum(max(0.0, 1 - score) for score in REAL) / 4 + sum(max(0.0, 1 + score) for score in FAKE) / 4
    assert found.item() == pytest.approx(expected)
    assert generator_loss(torch.tensor(FAKE), "hinge").item() == pytest.approx(-sum(FAKE) / 4)
    assert discriminator_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0]), "hinge").item() == 0.0


def test_an_unknown_kind_is_refused() -> None:
    for loss in (partial(discriminator_loss, torch.ones(4), torch.ones(4)), partial(generator_loss, torch.ones(4))):
        with pytest.raises(ValueError, match="unknown adversarial loss 'hinges'; allowed: non_saturating"):
            loss("hinges")  # pyright: ignore[reportArgumentType]


@KINDS
def test_each_side_pulls_the_scores_its_way(kind: AdversarialLoss) -> None:
    real, fake = torch.tensor(REAL, requires_grad=True), torch.tensor(FAKE, requires_grad=True)
    up, down = torch.autograd.grad(discriminator_loss(real, fake, kind), (real, fake))
    # A hinge pulls no further than to its margin.
    pulled = torch.ones(2, 4, dtype=torch.bool)
    if kind == "hinge":
        pulled = torch.stack([real < 1, fake > -1])
    assert torch.equal(torch.stack([up < 0, down > 0]), pulled)
    (up,) = torch.autograd.grad(generator_loss(fake, kind), fake)
    assert (up < 0).all()


def test_a_discriminator_that_wins_still_teaches_the_generator() -> None:
    fake = torch.tensor([-100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(fake, "non_saturating"), fake)
    assert slope.item() == pytest.approx(-1.0)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_computed_in_single_precision(kind: AdversarialLoss, dtype: torch.dtype) -> None:
    # The sum of the scores would overflow float16.
    real, fake = torch.full((4,), -6e4, dtype=dtype), torch.full((4,), 6e4, dtype=dtype)
    loss = discriminator_loss(real, fake, kind)
    assert loss.dtype == generator_loss(fake, kind).dtype == torch.float32
    assert loss.item() == pytest.approx(12e4, rel=1e-2)
    assert generator_loss(real, kind).item() == pytest.approx(6e4, rel=1e-2)


def test_the_penalties_of_a_linear_critic_follow_from_its_weights() -> None:
    weights, images = draw(3 * 4 * 2), draw(5, 3, 4, 2, seed=1).requires_grad_()
    scores = images.flatten(1) @ weights + 0.7
    squared = math.fsum(weight**2 for weight in weights.tolist())
    assert gradient_penalty_r1(scores, images).item() == pytest.approx(squared, rel=1e-12)
    expected = (math.sqrt(squared) - 1) ** 2
    assert gradient_penalty_wgan(scores, images).item() == pytest.approx(expected, rel=1e-12)


def test_the_penalties_are_means_over_images_of_different_slopes() -> None:
    first, second = draw(6, 24), draw(6, seed=1)
    images = draw(3, 3, 4, 2, seed=2).requires_grad_()
    squares = []
    for image in images.detach():
        slopes = []
        for place in range(24):
            step = torch.zeros(24, dtype=torch.float64)
            step[place] = 1e-5
            sides = (critic((image.flatten() + side)[None], first, second).item() for side in (step, -step))
            slopes.append((next(sides) - next(sides)) / 2e-5)
        squares.append(math.fsum(slope**2 for slope in slopes))
    assert len({round(square, 3) for square in squares}) == 3
    scores = critic(images, first, second)
    assert gradient_penalty_r1(scores, images).item() == pytest.approx(math.fsum(squares) / 3, rel=1e-6)
    expected = math.fsum((math.sqrt(square) - 1) ** 2 for square in squares) / 3
    assert gradient_penalty_wgan(scores, images).item() == pytest.approx(expected, rel=1e-6)


@PENALTIES
def test_the_penalties_have_the_gradient_of_their_values(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    images = draw(2, 3, 2, 2).requires_grad_()

    def of_weights(first: Tensor, second: Tensor) -> Tensor:
        return penalty(critic(images, first, second), images)

    weights = 0.3 * draw(4, 12, seed=1), draw(4, seed=2)
    assert torch.autograd.gradcheck(of_weights, [weight.requires_grad_() for weight in weights])


@PENALTIES
def test_a_critic_without_slope_has_a_finite_gradient(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    weights = torch.zeros(24, requires_grad=True)
    images = torch.ones(5, 3, 4, 2, requires_grad=True)
    value = penalty(images.flatten(1) @ weights, images)
    assert value.item() == (1.0 if penalty is gradient_penalty_wgan else 0.0)
    (gradient,) = torch.autograd.grad(value, weights)
    assert torch.equal(gradient, torch.zeros(24))


@PENALTIES
def test_penalties_of_half_precision_are_computed_in_single(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    # 300 squared is more than float16 holds.
    images = torch.ones(2, 3, 1, 1, dtype=torch.float16, requires_grad=True)
    value = penalty(300 * images.flatten(1).sum(1), images)
    assert value.dtype == torch.float32
    norm = 300 * math.sqrt(3)
    expected = norm**2 if penalty is gradient_penalty_r1 else (norm - 1) ** 2
    assert value.item() == pytest.approx(expected, rel=1e-6)


@PENALTIES
def test_penalties_need_one_score_per_image(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    images = torch.ones(2, 3, 4, 2, requires_grad=True)
    with pytest.raises(ValueError, match="2 images need as many scores"):
        penalty(images.flatten(1).sum(1, keepdim=True), images)


def test_interpolated_images_lie_on_the_line_between_the_two() -> None:
    real, fake = draw(6, 3, 4, 2).requires_grad_(), draw(6, 3, 4, 2, seed=1).requires_grad_()
    between = interpolated(real, fake, torch.Generator().manual_seed(3))
    assert between.is_leaf
    assert between.requires_grad
    shares = ((between - fake) / (real - fake)).detach().flatten(1)
    # One number for all pixels of an image, another for each image.
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares))
    assert len(set(shares[:, 0].tolist())) == 6
    assert torch.equal(between, interpolated(real, fake, torch.Generator().manual_seed(3)))
    assert not torch.equal(between, interpolated(real, fake, torch.Generator().manual_seed(4)))


def test_interpolation_is_uniform_between_the_two() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = interpolated(torch.ones(4000, 3, 1, 1), torch.zeros(4000, 3, 1, 1), generator)[:, 0, 0, 0].detach()
    assert 0 <= shares.min() < shares.max() <= 1
    quantiles = torch.quantile(shares, torch.tensor([0.1, 0.5, 0.9]))
    assert quantiles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


def test_only_images_of_one_shape_are_interpolated() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 2\) and \(1, 3, 4, 2\)"):
        interpolated(torch.zeros(2, 3, 4, 2), torch.zeros(1, 3, 4, 2), torch.Generator())
