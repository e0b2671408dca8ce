import pytest
import torch

from audit.score import learned_shift, probability_of_mistake


def normal(number: int, mean: float, seed: int) -> torch.Tensor:
    return mean + 0.1 * torch.randn(number, generator=torch.Generator().manual_seed(seed))


def test_probabilities_are_those_of_a_known_mixture() -> None:
    observed = torch.cat([normal(9500, 0.0, 0), normal(500, 0.4, 1)])
    probability = probability_of_mistake(observed, normal(4000, 0.4, 2))
    density = [torch.exp(-0.5 * ((observed - mean) / 0.1).square()) for mean in (0.0, 0.4)]
    exact = 0.05 * density[1] / (0.05 * density[1] + 0.95 * density[0])
    positive = observed > 0
    assert (probability - exact)[positive].abs().mean() < 0.02
    assert (probability - exact)[positive].abs().max() < 0.3
    assert probability[~positive].max() == 0
    assert (probability[observed.argsort()].diff() >= 0).all()


def test_without_mistakes_hardly_any_is_reported() -> None:
    probability = probability_of_mistake(normal(5000, 0.0, 0), normal(1000, 0.4, 1))
    assert (probability > 0.5).sum() <= 2


def test_few_or_no_observations_or_planted_mistakes() -> None:
    nothing, some = torch.empty(0), torch.tensor([0.3])
    assert probability_of_mistake(nothing, some).shape == (0,)
    assert probability_of_mistake(some, nothing).tolist() == [0.0]
    assert probability_of_mistake(-some, some).tolist() == [0.0]
    assert 0 <= probability_of_mistake(some, some).item() <= 1
    assert 0 <= probability_of_mistake(torch.zeros(3), torch.zeros(3)).max() <= 1


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.2])
def test_mistakes_that_were_learned_are_found(shift: float) -> None:
    planted, observed = normal(4000, 0.7, 2), torch.cat([normal(9500, 0.0, 0), normal(500, 0.7 - shift, 1)])
    found = learned_shift(observed, planted)
    assert found == 0 if shift == 0 else abs(found - shift) < 0.04
    assert (probability_of_mistake(observed, planted - found)[9500:] > 0.5).float().mean() > 0.9


def test_nothing_is_shifted_without_mistakes() -> None:
    nothing = torch.empty(0)
    assert learned_shift(normal(5000, 0.0, 0), normal(1000, 0.4, 1)) == 0
    assert learned_shift(normal(50, 0.0, 0), nothing) == 0
    assert learned_shift(nothing, normal(50, 0.4, 0)) == 0
    assert learned_shift(normal(50, 0.0, 0), normal(50, -0.4, 1)) == 0
