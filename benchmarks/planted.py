"""Embeddings with a planted structure, as large as those of the known test sets and about as hard to rank."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.features import Features, TestFeatures
from data.samples import DISTRACTOR_PID, JUNK_PID

CAMERA_SHIFT = 0.5
"""Length of what all images of a camera have in common, as a share of the length of an identity's centre."""
NOISE = 0.8
"""Length of what an image has to itself, likewise, on average; half to one and a half times that, by image."""
DISTRACTORS, JUNK = 0.15, 0.05
"""Shares of the gallery."""
BLOCK = 256  # images made at a time; their centres are the only copies


DIM = 512
"""Of `Embeddings`."""
SHARES = {"between": (3, 2.0, 0.71), "within": (4, 1.2, 0.29)}
"""Offset and exponent of the fall of the variance, and share of it."""


class Size(NamedTuple):
    """How many there are of everything."""

    num_query: int
    num_gallery: int
    num_pids: int
    num_cameras: int
    dim: int = 2048


SIZES = {
    "small": Size(200, 800, 50, 6),
    "market": Size(3368, 15913, 751, 6),
    "msmt": Size(11659, 82161, 3060, 15),
}
"""Those of the test sets of Market-1501 and MSMT17, and one to try things on."""


def planted_features(size: Size, seed: int) -> TestFeatures:
    """Each embedding is the centre of its identity, a shift by its camera, and noise.

    Dimension j has variance 1 / j, so that most of what happens does so in few of them, as in embeddings that were
    learnt: with mAP of 0.75 to 0.9 by "cosine" there is something to be right and wrong about. Distractors have
    centres of their own; so has junk.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, size.dim + 1).float().rsqrt()
    centres = torch.randn(size.num_pids + 1, size.dim, generator=generator).mul_(spread)
    centres[0] = 0.0  # that of all who have none
    shifts = torch.randn(size.num_cameras, size.dim, generator=generator).mul_(spread * CAMERA_SHIFT)

    def part(number: int, distractors: float, junk: float) -> Features:
        pids = torch.randint(1, size.num_pids + 1, (number,), generator=generator)
        kind = torch.rand(number, generator=generator)
        pids[kind < distractors + junk] = JUNK_PID
        pids[kind < distractors] = DISTRACTOR_PID
        camids = torch.randint(1, size.num_cameras + 1, (number,), generator=generator)
        noise = NOISE * (0.5 + torch.rand(number, generator=generator))
        noise = torch.where(pids > 0, noise, (1.0 + noise.square()).sqrt())
        return Features(_embeddings(pids, camids, noise), pids, camids, [])

    def _embeddings(pids: Tensor, camids: Tensor, noise: Tensor) -> Tensor:
        features = torch.empty(len(pids), size.dim)
        for rows in torch.arange(len(pids)).split(BLOCK):
            block = features[rows[0] : rows[-1] + 1].normal_(generator=generator)
            block.mul_(spread).mul_(noise[rows, None]).add_(centres[pids[rows].clamp(min=0)])
            block.add_(shifts[camids[rows] - 1])
        return features

    return TestFeatures(part(size.num_query, 0.0, 0.0), part(size.num_gallery, DISTRACTORS, JUNK))


class Embeddings:
    """Draws embeddings of so many identities like those of a model on real pictures.

    They have 512 numbers and unit length, with a mean cosine of 0.7 within an identity and of 0 +- 0.24 between two.
    The axes between and within identities are random, and the variance along the i-th of them falls as (i + 3)^-2 and
    (i + 4)^-1.2; so most of it lies in some 16 and 56 dimensions, as in the embeddings of 1,500 pictures of persons by
    a ResNet-18 that was trained for three epochs.
    """

    def __init__(self, identities: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        between, self.within = (self._axes(*shares) for shares in SHARES.values())
        self.centres = self.rng.standard_normal((identities, DIM), np.float32) @ between

    def draw(self, number: int) -> np.ndarray:
        """(N, 512) float32: as many images of random identities."""
        return self.labelled(number)[0]

    def labelled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The same, with their identities (N,)."""
        labels = self.rng.integers(len(self.centres), size=number)
        rows = self.centres[labels] + self.rng.standard_normal((number, DIM), np.float32) @ self.within
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels

    def _axes(self, offset: int, exponent: float, share: float) -> np.ndarray:
        variances = (np.arange(1, DIM + 1) + offset) ** -exponent
        directions = np.linalg.qr(self.rng.normal(size=(DIM, DIM)))[0]
        return (np.sqrt(share * variances / variances.sum())[:, None] * directions).astype(np.float32)
