"""Data sets with planted mistakes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.findings import Pool
from audit.judge import View
from audit.judge import view_of as judged_view
from audit.pixels import Pixels, read_pixels
from data.dataset import read_root
from data.samples import Sample
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions


class Pedestrians(NamedTuple):
    """The training images of a small set of synthetic pedestrians, and embeddings of them that need no network."""

    root: Path
    samples: list[Sample]
    pixels: Pixels
    features: Tensor


@pytest.fixture(scope="session")
def pedestrians(tmp_path_factory: pytest.TempPathFactory) -> Pedestrians:
    root = tmp_path_factory.mktemp("audit") / "pedestrians"
    options = SyntheticOptions(
        train_identities=30, test_identities=2, cameras=2, images_per_camera=9, distractors=0, junk=0
    )
    make_synthetic(root, options)
    samples = read_root(root).train
    pixels = read_pixels([sample.path for sample in samples])
    return Pedestrians(root, samples, pixels, colours_of(pixels, samples))


def colours_of(pixels: Pixels, samples: list[Sample]) -> Tensor:
    """Mean colours of small parts of the body, relative to those of the camera: (N, D) float32."""
    body = pixels.thumbnails[:, 2:30, 5:11].astype(np.float32).reshape(len(samples), 14, 2, 1, 6, 3)
    features = torch.from_numpy(body.mean(axis=(2, 4)).reshape(len(samples), -1))
    camids = torch.tensor([sample.camid for sample in samples])
    for camid in camids.unique():
        own = features[camids == camid]
        features[camids == camid] = (own - own.mean(dim=0)) / own.std(dim=0)
    return features


def view_of(features: Tensor, num_train: int) -> View:
    """A network's embeddings that judge all training images."""
    return judged_view(features, torch.arange(len(features)) < num_train, torch.device("cpu"))


class Planted(NamedTuple):
    """Embeddings of 60 persons with 12 images each from three cameras; pixels that are all different."""

    features: Tensor
    pids: Tensor
    camids: Tensor

    def pool(self, pids: Tensor) -> Pool:
        """The images, labelled like this."""
        samples = [
            Sample(Path(f"set/{row:04d}.jpg"), pid, camid)
            for row, (pid, camid) in enumerate(zip(pids.tolist(), self.camids.tolist(), strict=True))
        ]
        return Pool(Path("set"), samples, len(samples), 0, 60)


@pytest.fixture(scope="session")
def planted() -> Planted:
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(1, 61).repeat_interleave(12)
    camids = torch.arange(3).repeat_interleave(4).repeat(60)
    persons, cameras = torch.randn(61, 64, generator=generator), torch.randn(3, 64, generator=generator)
    noise = torch.randn(len(pids), 64, generator=generator)
    return Planted(persons[pids] + 0.2 * cameras[camids] + 0.5 * noise, pids, camids)


def distinct_pixels(number: int) -> Pixels:
    """Images that are no copies of each other, and of which nothing is odd."""
    rng = np.random.default_rng(0)
    return Pixels(
        np.arange(number)[:, None],
        np.full((number, 2), 128),
        np.full((number, 3), 100.0, np.float32),
        np.full(number, 50.0, np.float32),
        rng.integers(0, 256, (number, 32, 16, 3), dtype=np.uint8),
    )
