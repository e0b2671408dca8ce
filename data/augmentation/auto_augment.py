"""AutoAugment's policy for ImageNet: two operations in a row for some images of a batch.

Only the chosen images are touched, those of one operation together, each by its own magnitude.

Source: Cubuk et al. 2019, arXiv 1805.09501, table 9 of the appendix; magnitudes as in torchvision.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data.augmentation.colours import scale_contrast, scale_saturation, scale_sharpness
from data.augmentation.geometry import rotate, shear
from utils.device import to_device

Change = Callable[[Tensor, Tensor], Tensor]
"""Images (B, 3, H, W) and a magnitude for each (B,) -> changed images."""

LEVELS = 10
"""Of a magnitude, from 0 on."""


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each pixel, as many as the image's number rounded; (B, 3, H, W) uint8."""
    masks = (255 << (8 - bits.round().long())) & 255
    return images & masks.to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert what is at least as bright as the image's threshold; (B, 3, H, W) uint8."""
    return torch.where(images >= thresholds[:, None, None, None], 255 - images, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Invert all pixels; (B, 3, H, W) uint8."""
    return 255 - images


def stretch_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel of an image (B, 3, H, W) uint8 to 0..255; one of a single value stays."""
    lowest, highest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spans = (highest - lowest).clamp(min=1)
    stretched = ((images - lowest) * (255 / spans)).round().to(torch.uint8)
    return torch.where(highest > lowest, stretched, images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalize the histogram of each channel of an image (B, 3, H, W) uint8, with PIL's rounding.

    torchvision's counts by `scatter_add_`, which is slow on a GPU where algorithms must be deterministic.
    """
    pixels = images.flatten(2).contiguous()
    ordered = pixels.sort(2).values
    values = torch.arange(256, dtype=torch.uint8, device=images.device).expand(*pixels.shape[:2], -1)
    # The number of pixels that are darker than each value, and a 255th of those darker than the brightest.
    darker = torch.searchsorted(ordered, values.contiguous())
    steps = torch.searchsorted(ordered, ordered[:, :, -1:].contiguous()) // 255
    table = ((darker + steps // 2) // steps.clamp(min=1)).clamp(max=255).to(torch.uint8)
    return torch.where(steps > 0, table.gather(2, pixels.long()), pixels).view(images.shape)


def _on_unit(change: Change) -> Change:
    """A change of pixels in 0..1 as one of uint8."""

    def changed(images: Tensor, magnitudes: Tensor) -> Tensor:
        return change(images.float().div_(255), magnitudes).mul_(255).round_().to(torch.uint8)

    return changed


class Operation(NamedTuple):
    """An operation, its magnitude at the lowest and the highest level, and whether it goes in either direction."""

    change: Change
    lowest: float = 0.0
    highest: float = 0.0
    either_way: bool = False

    def magnitude(self, level: int) -> float:
        """At a level in 0..9, in the direction of `highest`."""
        return self.lowest + (self.highest - self.lowest) * level / (LEVELS - 1)


OPERATIONS = {
    "posterize": Operation(posterize, 8, 4),
    "solarize": Operation(solarize, 255, 0),
    "invert": Operation(invert),
    "autocontrast": Operation(stretch_contrast),
    "equalize": Operation(equalize),
    "color": Operation(_on_unit(scale_saturation), 1, 1.9, either_way=True),
    "contrast": Operation(_on_unit(scale_contrast), 1, 1.9, either_way=True),
    "sharpness": Operation(_on_unit(scale_sharpness), 1, 1.9, either_way=True),
    "rotate": Operation(_on_unit(rotate), 0, math.radians(30), either_way=True),
    "shear_x": Operation(_on_unit(shear), 0, 0.3, either_way=True),
}
POLICY: tuple[tuple[str, float, int, str, float, int], ...] = (
    ("posterize", 0.4, 8, "rotate", 0.6, 9),
    ("solarize", 0.6, 5, "autocontrast", 0.6, 5),
    ("equalize", 0.8, 8, "equalize", 0.6, 3),
    ("posterize", 0.6, 7, "posterize", 0.6, 6),
    ("equalize", 0.4, 7, "solarize", 0.2, 4),
    ("equalize", 0.4, 4, "rotate", 0.8, 8),
    ("solarize", 0.6, 3, "equalize", 0.6, 7),
    ("posterize", 0.8, 5, "equalize", 1.0, 2),
    ("rotate", 0.2, 3, "solarize", 0.6, 8),
    ("equalize", 0.6, 8, "posterize", 0.4, 6),
    ("rotate", 0.8, 8, "color", 0.4, 0),
    ("rotate", 0.4, 9, "equalize", 0.6, 2),
    ("equalize", 0.0, 7, "equalize", 0.8, 8),
    ("invert", 0.6, 4, "equalize", 1.0, 8),
    ("color", 0.6, 4, "contrast", 1.0, 8),
    ("rotate", 0.8, 8, "color", 1.0, 2),
    ("color", 0.8, 8, "solarize", 0.8, 7),
    ("sharpness", 0.4, 7, "invert", 0.6, 8),
    ("shear_x", 0.6, 5, "equalize", 1.0, 9),
    ("color", 0.4, 0, "equalize", 0.6, 3),
    ("equalize", 0.4, 7, "solarize", 0.2, 4),
    ("solarize", 0.6, 5, "autocontrast", 0.6, 5),
    ("invert", 0.6, 4, "equalize", 1.0, 8),
    ("color", 0.6, 4, "contrast", 1.0, 8),
    ("equalize", 0.8, 8, "equalize", 0.6, 3),
)
"""Sub-policies: name, probability and level of the first operation, then of the second."""


def sample_policy(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw a sub-policy for some images, which operations of it happen, and their directions.

    Returns:
        (B, 2, 2): of the first and of the second operation its number in OPERATIONS, -1 for none, and its magnitude.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    steps = torch.tensor([[_step(*row[:3]), _step(*row[3:])] for row in POLICY])
    chosen = uniform(batch, 1) < probability
    drawn = steps[torch.randint(len(POLICY), (batch,), generator=generator, device=generator.device)]
    probabilities, numbers, magnitudes, opposite = drawn.unbind(2)
    happens = chosen & (uniform(batch, 2) < probabilities)
    magnitudes = torch.where(uniform(batch, 2) < 0.5, magnitudes, opposite)
    return torch.stack((torch.where(happens, numbers, -1.0), magnitudes), dim=2)


def apply_policy(images: Tensor, policy: Tensor) -> Tensor:
    """Apply what `sample_policy` drew; does not synchronise with the GPU.

    Args:
        images: (B, 3, H, W) uint8; they are not changed.
        policy: (B, 2, 2) of these images, on the CPU.
    """
    if (policy[:, :, 0] < 0).all():
        return images
    images = images.clone()
    for step in policy.unbind(1):
        for number, operation in enumerate(OPERATIONS.values()):
            chosen = (step[:, 0] == number).nonzero()[:, 0]
            if len(chosen):
                where = to_device(chosen, images.device)
                images[where] = operation.change(images[where], to_device(step[chosen, 1], images.device))
    return images


def _step(name: str, probability: float, level: int) -> tuple[float, float, float, float]:
    """Probability, number and magnitude of an operation, and its magnitude in the opposite direction."""
    operation = OPERATIONS[name]
    magnitude = operation.magnitude(level)
    opposite = 2 * operation.lowest - magnitude if operation.either_way else magnitude
    return probability, list(OPERATIONS).index(name), magnitude, opposite
