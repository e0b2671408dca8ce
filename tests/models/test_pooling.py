import pytest
import torch

from models.pooling import EPSILON, Pooling, StripePooling, pool_stripes


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_stripes_are_pooled_one_by_one(num_parts: int, pooling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(2, 5, 6, 4, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    slopes = torch.randn(num_parts, 2, 5, generator=generator)
    pooled = pool_stripes(feature_map, num_parts, pooling)  # pyright: ignore[reportArgumentType]
    (gradient,) = torch.autograd.grad((slopes * pooled).sum(), feature_map)
    rows = 6 // num_parts
    for part in range(num_parts):
        for image in range(2):
            for channel in range(5):
                place = image, channel, slice(part * rows, (part + 1) * rows)
                stripe, slope = feature_map[place].detach(), slopes[part, image, channel]
                expected = stripe.sum() / stripe.numel() if pooling == "avg" else stripe.max()
                torch.testing.assert_close(pooled[part, image, channel], expected)
                share = 1 / stripe.numel() if pooling == "avg" else stripe == expected
                torch.testing.assert_close(gradient[place], slope * torch.ones_like(stripe) * share)


def test_parts_that_do_not_divide_the_map_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 parts do not divide a feature map of height 6"):
        pool_stripes(torch.zeros(1, 1, 6, 2), 4, "avg")


@pytest.mark.parametrize(
    ("kind", "powers"), [("gem", (1.0, 1.0)), ("gem", (3.0, 3.0)), ("gem", (4.5, 4.5)), ("gem_each", (2.0, 4.5))]
)
def test_gem_is_the_generalised_mean_of_the_positive_values(kind: Pooling, powers: tuple[float, float]) -> None:
    pooling = StripePooling(2, kind)
    assert pooling.power is not None
    pooling.power.data.copy_(torch.tensor(powers[0]) if kind == "gem" else torch.tensor(powers)[:, None])
    feature_map = torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    pooled = pooling.double()(feature_map)
    for part, power in enumerate(powers):
        for image in range(3):
            for channel in range(5):
                values = feature_map[image, channel, 2 * part : 2 * part + 2].flatten().tolist()
                mean = sum(max(value, EPSILON) ** power for value in values) / len(values)
                assert pooled[part, image, channel].item() == pytest.approx(mean ** (1 / power), rel=1e-6)


def test_gem_lies_between_mean_and_maximum_and_its_power_is_trained() -> None:
    pooling = StripePooling(1, "gem")
    feature_map = torch.rand(3, 5, 4, 2, generator=torch.Generator().manual_seed(0))
    pooled = pooling(feature_map)
    assert (pooled >= pool_stripes(feature_map, 1, "avg")).all()
    assert (pooled <= pool_stripes(feature_map, 1, "max")).all()
    pooled.sum().backward()
    assert pooling.power is not None
    assert pooling.power.grad is not None
    assert pooling.power.grad > 0


@pytest.mark.parametrize("kind", ["gem", "gem_each"])
def test_gem_of_a_bfloat16_map_is_computed_in_float32(kind: Pooling) -> None:
    feature_map = torch.rand(3, 5, 4, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    pooling = StripePooling(2, kind)
    assert torch.equal(pooling(feature_map), pooling(feature_map.float()))


@pytest.mark.parametrize("power", [0.5, 3.0, 10.0, 50.0])
def test_a_dead_channel_has_a_finite_gem_and_gradient_at_any_power(power: float) -> None:
    feature_map = torch.zeros(2, 3, 4, 2)
    feature_map[0, 0] = 1000.0
    feature_map.requires_grad_()
    pooling = StripePooling(2, "gem")
    assert pooling.power is not None
    pooling.power.data.fill_(power)
    pooling(feature_map).sum().backward()
    assert feature_map.grad is not None
    assert pooling.power is not None
    assert pooling.power.grad is not None
    assert feature_map.grad.isfinite().all()
    assert pooling.power.grad.isfinite()
