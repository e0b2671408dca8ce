"""Generator and discriminator of person images, optionally conditioned on a re-ID embedding.

Pictures are float (B, 3, H, W) in -1..1, half as wide as high.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.options import GeneratorOptions

SMALLEST_MAP = (4, 2)
"""Height and width of the generator's first and the discriminator's last map."""


class Generator(nn.Module):
    """Upsampling by 2 and a convolution, repeated up to the size of the picture.

    Args:
        height: of the pictures, a power of two of at least 8.
        input_dim: size of the noise.
        width: channels of the last, largest map (`ngf`); the first has up to 16 times as many.
        condition_dim: size of the embedding it is conditioned on; 0 = unconditional.

    Source: Radford et al. 2016, arXiv 1511.06434, with upsampling instead of transposed convolutions.
    """

    def __init__(self, height: int, input_dim: int, width: int, condition_dim: int = 0) -> None:
        super().__init__()
        self.height = height
        self.input_dim = input_dim
        self.condition_dim = condition_dim
        # One map more than doublings: the last has the size of the picture.
        coarse_to_fine = [width * min(16, 2**number) for number in reversed(range(num_doublings(height) + 1))]
        # Condition and noise have the same size, so that neither dominates.
        self.condition = nn.Linear(condition_dim, input_dim) if condition_dim else None
        self.condition_digest: Tensor | None
        """(32,) uint8: SHA-256 of the network whose embeddings it is conditioned on; zero if unknown."""
        self.register_buffer("condition_digest", torch.zeros(32, dtype=torch.uint8) if condition_dim else None)
        inputs = 2 * input_dim if condition_dim else input_dim
        self.first = nn.Linear(inputs, coarse_to_fine[0] * SMALLEST_MAP[0] * SMALLEST_MAP[1], bias=False)
        self.first_norm = nn.BatchNorm2d(coarse_to_fine[0])
        self.blocks = nn.ModuleList(_doubling(*pair) for pair in pairwise(coarse_to_fine))
        self.last = nn.Conv2d(coarse_to_fine[-1], 3, 3, padding=1)
        self.apply(_draw_weights)

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noise (B, input_dim) and embeddings (B, condition_dim), both normalised here -> pictures.

        Raises:
            ValueError: a conditional generator without embedding, or an unconditional one with it.
        """
        if (condition is None) != (self.condition is None):
            raise ValueError("a conditional generator needs an embedding, an unconditional one takes none")
        # Norm sqrt(input_dim): elements of order one.
        inputs = F.normalize(noise) * self.input_dim**0.5
        if self.condition is not None and condition is not None:
            inputs = torch.cat([inputs, self.condition(_unit(condition))], dim=1)
        feature_map = self.first(inputs).view(len(noise), -1, *SMALLEST_MAP)
        feature_map = F.relu(self.first_norm(feature_map))
        for block in self.blocks:
            feature_map = block(feature_map)
        return torch.tanh(self.last(feature_map))


class Discriminator(nn.Module):
    """Strided convolutions, each of which halves the size of the map, and a score.

    Gradient penalties need a score to depend on its own picture only, so there is no batch normalisation.

    Args:
        height: of the pictures, a power of two of at least 8.
        width: channels of the first map (`ndf`); the last has up to eight times as many.
        condition_dim: size of the embedding it is conditioned on; 0 = unconditional.
        spectral_norm: of every layer.

    Source: Miyato et al. 2018, arXiv 1802.05957 (normalisation); Miyato and Koyama 2018, arXiv 1802.05637 (condition).
    """

    def __init__(self, height: int, width: int, condition_dim: int = 0, spectral_norm: bool = True) -> None:
        super().__init__()
        self.height = height
        self.condition_dim = condition_dim
        fine_to_coarse = [width * min(8, 2**number) for number in range(num_doublings(height))]
        pairs = pairwise((3, *fine_to_coarse))
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in pairs)
        self.features_dim = fine_to_coarse[-1] * SMALLEST_MAP[0] * SMALLEST_MAP[1]
        self.score = nn.Linear(self.features_dim, 1)
        self.condition = nn.Linear(condition_dim, self.features_dim, bias=False) if condition_dim else None
        self.apply(_draw_weights)
        if spectral_norm:
            for layer in [*self.convolutions, self.score, *([] if self.condition is None else [self.condition])]:
                nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, pictures: Tensor, condition: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, height, height / 2) and embeddings (B, condition_dim) -> scores (B,), higher for real ones.

        Raises:
            ValueError: a conditional discriminator without embedding, or an unconditional one with it.
        """
        if (condition is None) != (self.condition is None):
            raise ValueError("a conditional discriminator needs an embedding, an unconditional one takes none")
        feature_map = pictures
        for convolution in self.convolutions:
            feature_map = F.leaky_relu(convolution(feature_map), 0.2)
        features = feature_map.flatten(1)
        scores = self.score(features).squeeze(1)
        if self.condition is not None and condition is not None:
            scores = scores + (self.condition(_unit(condition)) * features).sum(1) / self.features_dim**0.5
        return scores


def num_doublings(height: int) -> int:
    """Number of doublings from the smallest map to a picture.

    Raises:
        ValueError: the height is not a power of two of at least 8.
    """
    number = (height // SMALLEST_MAP[0]).bit_length() - 1
    if number < 1 or SMALLEST_MAP[0] * 2**number != height:
        raise ValueError(f"the height of a picture must be a power of two of at least 8, got {height}")
    return number


def build_generator(options: GeneratorOptions, condition_dim: int) -> Generator:
    """The generator that `gan_params` describes, randomly initialised; condition_dim 0 = unconditional."""
    return Generator(options.img_h, options.input_dim, options.ngf, condition_dim)


def build_discriminator(options: GeneratorOptions, condition_dim: int) -> Discriminator:
    """The discriminator that `gan_params` describes, randomly initialised."""
    return Discriminator(options.img_h, options.ndf, condition_dim, options.spectral_norm)


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    """(B, in_channels, h, w) -> (B, out_channels, 2 h, 2 w).

    Upsampling and convolution instead of a transposed convolution, which leaves checkerboard artifacts (Odena et al.
    2016); nearest instead of bilinear, which left ripples on synthetic pedestrians.
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _draw_weights(layer: nn.Module) -> None:
    """Source: Radford et al. 2016, section 4."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _unit(embeddings: Tensor) -> Tensor:
    """Normalise (B, D) to norm sqrt(D): elements of order one."""
    return F.normalize(embeddings) * embeddings.shape[1] ** 0.5


def pictures_as_bytes(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in -1..1 -> uint8."""
    return ((pictures.float() + 1) * 127.5).round_().clamp_(0, 255).byte()
