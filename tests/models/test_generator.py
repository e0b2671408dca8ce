"""Generator and discriminator: shapes, what counts in their inputs, and their weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from gan.steps import as_pictures
from models.generator import (
    SMALLEST_MAP,
    Discriminator,
    Generator,
    build_discriminator,
    build_generator,
    num_doublings,
    pictures_as_bytes,
)
from models.options import GeneratorOptions

HEIGHTS = [64, 128, 256]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_generator(height: int = 64, condition_dim: int = 0, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(height, 5, 2, condition_dim)


def make_discriminator(
    height: int = 64, condition_dim: int = 0, *, spectral_norm: bool = True, seed: int = 0
) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(height, 2, condition_dim, spectral_norm)


def layers_of(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def largest_singular_value(layer: nn.Conv2d | nn.Linear) -> float:
    return torch.linalg.svdvals(layer.weight.detach().flatten(1).double())[0].item()


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("condition_dim", [0, 7])
def test_pictures_and_scores_have_their_shapes(height: int, condition_dim: int) -> None:
    generator, discriminator = make_generator(height, condition_dim), make_discriminator(height, condition_dim)
    condition = draw(3, condition_dim) if condition_dim else None
    pictures = generator(draw(3, 5), condition)
    assert pictures.shape == (3, 3, height, height // 2)
    assert discriminator(pictures, condition).shape == (3,)
    assert (generator.height, generator.input_dim, generator.condition_dim) == (height, 5, condition_dim)
    assert (discriminator.height, discriminator.condition_dim) == (height, condition_dim)


def test_pictures_fill_the_range_and_do_not_leave_it() -> None:
    generator = make_generator()
    with torch.no_grad():
        assert generator(draw(8, 5)).abs().max() < 1
        layers_of(generator)[-1].weight.mul_(1e4)
        pictures = generator(draw(8, 5))
    assert (pictures.min().item(), pictures.max().item()) == (-1.0, 1.0)


def test_of_the_noise_only_the_direction_counts() -> None:
    # Normalised over the batch: with its initial averages the pictures would be all but grey.
    generator, noise = make_generator(condition_dim=3), draw(4, 5)
    condition = draw(4, 3, seed=1)
    pictures = generator(noise, condition)
    lengths = torch.tensor([[0.25], [2.0], [8.0], [64.0]])
    assert torch.allclose(generator(noise * lengths, condition), pictures, atol=1e-5)
    assert torch.allclose(generator(noise, condition * lengths), pictures, atol=1e-5)
    assert not torch.allclose(generator(-noise, condition), pictures, atol=1e-3)
    assert not torch.allclose(generator(noise, -condition), pictures, atol=1e-3)


def test_the_first_layer_sees_numbers_of_order_one() -> None:
    generator, seen = make_generator(condition_dim=3), list[Tensor]()
    generator.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    noise, condition = draw(4, 5), draw(4, 3, seed=1)
    generator(noise, condition)
    (inputs,) = seen
    assert inputs.shape == (4, 10)
    assert inputs[:, :5].norm(dim=1).tolist() == pytest.approx([math.sqrt(5)] * 4)
    unit = condition / condition.norm(dim=1, keepdim=True) * math.sqrt(3)
    assert generator.condition is not None
    torch.testing.assert_close(inputs[:, 5:], generator.condition(unit))


def test_a_discriminators_score_is_the_definition() -> None:
    discriminator = make_discriminator(condition_dim=3, spectral_norm=False)
    pictures, condition = draw(2, 3, 64, 32), draw(2, 3, seed=1)
    for picture, whom, score in zip(pictures, condition, discriminator(pictures, condition), strict=True):
        features = picture[None]
        for convolution in discriminator.convolutions:
            features = nn.functional.conv2d(features, convolution.weight, convolution.bias, stride=2, padding=1)  # pyright: ignore[reportCallIssue, reportArgumentType]
            features = torch.where(features > 0, features, 0.2 * features)
        assert features.shape[2:] == SMALLEST_MAP
        features = features.flatten()
        expected = discriminator.score.weight[0] @ features + discriminator.score.bias
        assert discriminator.condition is not None
        unit = whom / whom.norm() * math.sqrt(3)
        expected += (discriminator.condition.weight @ unit) @ features / math.sqrt(len(features))
        torch.testing.assert_close(score[None], expected)


@pytest.mark.parametrize("condition_dim", [0, 7])
def test_a_score_depends_on_its_own_picture_alone(condition_dim: int) -> None:
    discriminator = make_discriminator(condition_dim=condition_dim)
    pictures = draw(4, 3, 64, 32).requires_grad_()
    scores = discriminator(pictures, draw(4, condition_dim) if condition_dim else None)
    for number in range(4):
        (gradient,) = torch.autograd.grad(scores[number], pictures, retain_graph=True)
        assert [bool(each.any()) for each in gradient] == [place == number for place in range(4)]


@pytest.mark.parametrize("condition_dim", [0, 7])
def test_with_spectral_norm_no_layer_stretches(condition_dim: int) -> None:
    discriminator = make_discriminator(condition_dim=condition_dim)
    num_layers = 4 + 1 + bool(condition_dim)
    with torch.no_grad():
        for layer in layers_of(discriminator):
            # Far from the weights that the first power iterations were taken with.
            original = layer.get_parameter("parametrizations.weight.original")
            original.copy_(30 * draw(*original.shape))
        pictures, condition = draw(2, 3, 64, 32), draw(2, condition_dim) if condition_dim else None
        for _ in range(200):
            discriminator(pictures, condition)
    values = [largest_singular_value(layer) for layer in layers_of(discriminator.eval())]
    assert values == pytest.approx([1.0] * num_layers, abs=1e-3)


@pytest.mark.parametrize("height", [-8, 0, 1, 2, 4, 12, 63, 65, 96, 127])
def test_a_height_that_is_no_power_of_two_is_refused(height: int) -> None:
    with pytest.raises(ValueError, match=f"power of two of at least 8, got {height}"):
        num_doublings(height)
    with pytest.raises(ValueError, match="power of two"):
        Generator(height, 5, 2)
    with pytest.raises(ValueError, match="power of two"):
        Discriminator(height, 2)


@pytest.mark.parametrize("height", HEIGHTS)
def test_maps_double_and_halve_and_have_the_channels_of_the_definition(height: int) -> None:
    generator, discriminator = make_generator(height), make_discriminator(height)
    seen: list[tuple[int, ...]] = []
    for layer in (generator.first_norm, *generator.blocks, *discriminator.convolutions):
        layer.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    discriminator(generator(draw(2, 5)))
    made, judged, size, factor = [(2, height, height // 2)], [], height, 1
    while size > SMALLEST_MAP[0]:
        size //= 2
        made.append((min(16, 2 * factor) * 2, size, size // 2))
        judged.append((min(8, factor) * 2, size, size // 2))
        factor *= 2
    assert seen == [*reversed(made), *judged]


def test_a_condition_that_is_missing_or_of_no_use_is_refused() -> None:
    pictures, noise, condition = draw(2, 3, 64, 32), draw(2, 5), draw(2, 7)
    for net, inputs in ((make_generator(condition_dim=7), noise), (make_discriminator(condition_dim=7), pictures)):
        with pytest.raises(ValueError, match=r"conditional .* needs an embedding"):
            net(inputs)
    for net, inputs in ((make_generator(), noise), (make_discriminator(), pictures)):
        with pytest.raises(ValueError, match="unconditional one takes none"):
            net(inputs, condition)


def test_options_reach_the_networks() -> None:
    options = GeneratorOptions(img_h=128, input_dim=9, ngf=3, ndf=2, spectral_norm=False)
    generator, discriminator = build_generator(options, 6), build_discriminator(options, 6)
    assert (generator.height, generator.input_dim, generator.condition_dim) == (128, 9, 6)
    assert layers_of(generator)[-1].weight.shape[1] == 3
    assert (discriminator.height, discriminator.condition_dim) == (128, 6)
    assert [convolution.out_channels for convolution in discriminator.convolutions] == [2, 4, 8, 16, 16]
    assert not any("parametrizations" in name for name in discriminator.state_dict())
    normalised = build_discriminator(options.model_copy(update={"spectral_norm": True}), 0)
    assert sum(name.endswith("weight.original") for name in normalised.state_dict()) == 6
    assert normalised.condition is None


def test_bytes_are_the_inverse_of_pictures_for_every_value() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    pictures = as_pictures(images)
    assert (pictures.dtype, pictures.min().item(), pictures.max().item()) == (torch.float32, -1.0, 1.0)
    assert torch.equal(pictures_as_bytes(pictures), images)


def test_bytes_are_the_nearest_and_never_wrap_around() -> None:
    values = torch.linspace(-1.2, 1.2, 1001)
    found = pictures_as_bytes(values.view(1, 1, 1, -1)).flatten().tolist()
    expected = [min(255, max(0, (value + 1) * 127.5)) for value in values.tolist()]
    assert max(abs(byte - exact) for byte, exact in zip(found, expected, strict=True)) <= 0.5 + 1e-4
