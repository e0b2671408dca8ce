"""What one forward pass of a training sees."""

from typing import NamedTuple

from torch import Tensor

from engine.gan.adversaries import RealBatch
from losses.loss import TeacherOutput


class GeneratedImages(NamedTuple):
    """Images that a generator made for a step."""

    pixels: Tensor
    """(M, 3, H, W), augmented and normalised as the real ones."""
    labels: Tensor | None = None
    """(M,) int64; None: they show nobody."""
    sources: Tensor | None = None
    """(M,) int64: the images of the batch that they were made from; None: from none."""


class TrainBatch(NamedTuple):
    """What one forward pass sees."""

    pixels: Tensor
    """(B, 3, H, W), augmented and normalised."""
    labels: Tensor
    """(B,) int64."""
    taught: TeacherOutput | None = None
    """What the teacher makes of the same pixels; None without one."""
    generated: GeneratedImages | None = None
    """None where the step learns from real images only."""
    real: RealBatch | None = None
    """What a generator that is trained along learns from; None without one."""
