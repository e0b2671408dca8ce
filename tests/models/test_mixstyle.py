"""MixStyle: what is mixed, with whom, and when."""

import pytest
import torch

from models.mixstyle import EPSILON, MixStyle, draw_partners, draw_shares, mix_styles
from models.network import build_network
from models.options import ModelParams

CPU = torch.device("cpu")
SIZE = (64, 32)


def test_each_channel_gets_statistics_between_its_own_and_those_of_another_image() -> None:
    features = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    others, shares = torch.tensor([2, 0, 0, 3]), torch.tensor([0.0, 1.0, 0.25, 0.5])
    mixed = mix_styles(features, others, shares)
    for image in range(4):
        for channel in range(3):
            values = features[image, channel].flatten().tolist()
            other = features[others[image], channel].flatten().tolist()
            (mean, deviation), (mean2, deviation2) = (
                (sum(each) / 10, (sum((value - sum(each) / 10) ** 2 for value in each) / 10 + EPSILON) ** 0.5)
                for each in (values, other)
            )
            share = shares[image].item()
            new_mean, new_deviation = (
                share * own + (1 - share) * theirs for own, theirs in ((mean, mean2), (deviation, deviation2))
            )
            expected = [(value - mean) / deviation * new_deviation + new_mean for value in values]
            assert mixed[image, channel].flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_the_statistics_have_no_gradient() -> None:
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    mixed = mix_styles(features, torch.tensor([1, 0]), torch.tensor([0.3, 0.6], dtype=torch.float64))
    mixed.sum().backward()
    assert features.grad is not None
    # The gradient of a channel is its factor alone, the same at every position.
    assert torch.equal(features.grad, features.grad[:, :, :1, :1].expand_as(features.grad))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_shares_are_of_a_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    shares = draw_shares(40_000, alpha, CPU).double()
    assert not shares.isnan().any()
    # Mean and variance of Beta(a, a): 1/2 and 1 / (4 (2 a + 1)); five standard errors of the mean.
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / 40_000) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.03)
    expected = torch.distributions.Beta(alpha, alpha).sample(torch.Size((40_000,)))
    for place in (0.01, 0.1, 0.3):
        assert (shares < place).double().mean().item() == pytest.approx(
            (expected < place).double().mean().item(), abs=0.015
        )


def test_partners_are_a_permutation_or_of_other_cameras() -> None:
    torch.manual_seed(0)
    assert sorted(draw_partners(8, None, CPU).tolist()) == list(range(8))
    camids = torch.tensor([1, 1, 1, 2, 2, 10**12])
    drawn = torch.stack([draw_partners(6, camids, CPU) for _ in range(200)])
    for image in range(6):
        assert set(drawn[:, image].tolist()) == set((camids != camids[image]).nonzero().flatten().tolist())
    assert set(draw_partners(4, torch.ones(4, dtype=torch.int64), CPU).tolist()) <= set(range(4))


def test_a_share_of_the_batches_is_mixed_in_training_and_none_in_evaluation() -> None:
    torch.manual_seed(0)
    features, mixing = torch.randn(4, 2, 3, 3), MixStyle(0.3, 0.1)
    changed = sum(not torch.allclose(mixing(features), features, atol=1e-5) for _ in range(400))
    assert abs(changed - 120) < 5 * (400 * 0.3 * 0.7) ** 0.5
    assert mixing.eval()(features) is features
    with pytest.raises(ValueError, match="needs the cameras"):
        MixStyle(0.5, 0.1, across_cameras=True)(features)


@pytest.mark.parametrize("model", ["resnet_18", "osnet_ain_x0_25"])
def test_a_network_mixes_in_training_only_and_has_the_same_weights(model: str) -> None:
    torch.manual_seed(0)
    plain = build_network(ModelParams.model_validate({"model": model, "feature_dim": 8}), 3, SIZE)
    options = ModelParams.model_validate(
        {"model": model, "feature_dim": 8, "mixstyle": 1.0, "mixstyle_across_cameras": True}
    )
    mixed = build_network(options, 3, SIZE)
    mixed.load_state_dict(plain.state_dict())
    images, camids = torch.randn(4, 3, *SIZE), torch.tensor([1, 1, 2, 2])

    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return mixed.train().backbone.maps(images, camids)[0]

    assert torch.equal(plain.eval().embed(images), mixed.eval().embed(images))
    assert torch.equal(trained(1), trained(1))
    assert not torch.allclose(trained(1), trained(2))


def test_compiled_draws_need_no_other_code() -> None:
    mixing, features = MixStyle(1.0, 0.1, across_cameras=True), torch.randn(4, 2, 3, 3)
    camids = torch.tensor([1, 1, 2, 2])
    torch.manual_seed(0)
    expected = mixing(features, camids)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(mixing, fullgraph=True, backend="aot_eager")(features, camids), expected)
