"""How far nearest neighbours get on the synthetic pedestrians without learning.

A data set that a colour histogram solves teaches a network nothing.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import read_dataset
from data.features import Features, TestFeatures
from data.images import decode
from data.options import DataOptions
from data.samples import Dataset
from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions
from evaluate.core.retrieval.retrieve import RetrievalOptions, retrieve


def pixels(image: Image.Image) -> np.ndarray:
    """Raw RGB values at 32 x 64, unit length."""
    return _unit(np.asarray(image.resize((32, 64)), dtype=np.float32).ravel())


def rgb_histogram(image: Image.Image) -> np.ndarray:
    """8 x 8 x 8 bins of RGB; square roots, so that the dot product is the Bhattacharyya coefficient."""
    bins = (np.asarray(image) // 32).reshape(-1, 3) @ (64, 8, 1)
    return _unit(np.sqrt(np.bincount(bins, minlength=512)))


def stripe_histogram(image: Image.Image) -> np.ndarray:
    """8 x 8 x 4 bins of HSV in each of three horizontal stripes, of the middle half of the width."""
    hsv = np.asarray(image.convert("HSV"))[:, image.width // 4 : -image.width // 4]
    bins = (hsv // (32, 32, 64)) @ (32, 4, 1)
    return _unit(
        np.concatenate([np.sqrt(np.bincount(part.ravel(), minlength=256)) for part in np.array_split(bins, 3)])
    )


BASELINES = {"raw pixels": pixels, "RGB histogram": rgb_histogram, "HSV histogram, 3 stripes": stripe_histogram}


def measure(folder: Path) -> dict[str, tuple[float, float]]:
    """Rank-1 and mAP of every baseline on a data set in the Market-1501 layout."""
    dataset = read_dataset(DataOptions(batches_dir=str(folder)))
    return {name: score(feature, dataset) for name, feature in BASELINES.items()}


def score(feature: Callable[[Image.Image], np.ndarray], dataset: Dataset) -> tuple[float, float]:
    """Rank-1 and mAP of one baseline, as fractions."""
    sides = []
    for samples in (dataset.query, dataset.gallery):
        rows = np.stack([feature(Image.fromarray(decode(sample.path))) for sample in samples])
        pids, camids = (torch.tensor([sample[place] for sample in samples]) for place in (1, 2))
        sides.append(Features(torch.from_numpy(rows).float(), pids, camids, samples))
    result = retrieve(TestFeatures(*sides), RetrievalOptions(type="market_evaluate"), torch.device("cpu")).result
    return result.cmc(1), result.mean_ap


def _unit(feature: np.ndarray) -> np.ndarray:
    return feature / np.linalg.norm(feature)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    options = SyntheticOptions(train_identities=2)  # the default test persons; the training persons are not needed
    return measure(make_synthetic(tmp_path_factory.mktemp("difficulty") / "set", options))


@pytest.mark.parametrize("name", BASELINES)
def test_nearest_neighbours_without_learning_stay_far_from_solving_the_set(baselines, name):
    rank1, mean_average_precision = baselines[name]
    assert rank1 < 0.4
    assert mean_average_precision < 0.25


def test_the_set_is_not_hopeless_either(baselines):
    chance = 0.02
    assert max(rank1 for rank1, _ in baselines.values()) > 4 * chance
