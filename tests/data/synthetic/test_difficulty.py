"""How far nearest neighbours get on the synthetic pedestrians without learning.

A data set that a colour histogram solves teaches a network nothing.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.synthetic.dataset import make_synthetic
from data.synthetic.options import SyntheticOptions


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


def load_split(folder: Path) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Images of a folder with their pids and camids, read from the file names."""
    images, pids, camids = [], [], []
    for path in sorted(folder.glob("*.jpg")):
        pid, rest = path.stem.split("_", 1)
        pids.append(int(pid))
        camids.append(int(rest[1 : rest.index("s")]))
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images, np.array(pids), np.array(camids)


def measure(folder: Path) -> dict[str, tuple[float, float]]:
    """Rank-1 and mAP of every baseline on a data set in the Market-1501 layout."""
    query, query_pids, query_camids = load_split(folder / "query")
    gallery, gallery_pids, gallery_camids = load_split(folder / "bounding_box_test")
    ignored = (query_pids[:, None] == gallery_pids) & (query_camids[:, None] == gallery_camids) | (gallery_pids == -1)
    matches = query_pids[:, None] == gallery_pids
    results = {}
    for name, feature in BASELINES.items():
        similarity = np.stack([feature(i) for i in query]) @ np.stack([feature(i) for i in gallery]).T
        results[name] = score(np.where(ignored, -np.inf, similarity), matches & ~ignored)
    return results


def score(similarity: np.ndarray, matches: np.ndarray) -> tuple[float, float]:
    """Rank-1 and mAP as fractions.

    Args:
        similarity: (Q, G), -inf where the protocol leaves the pair out.
        matches: (Q, G) bool, true for the pairs to be found.
    """
    ranked = np.take_along_axis(matches, np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    average = (precision * ranked).sum(axis=1) / ranked.sum(axis=1)
    return float(ranked[:, 0].mean()), float(average.mean())


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


def test_score_of_a_small_case_done_by_hand():
    similarity = np.array([[0.9, 0.8, 0.1], [0.2, -np.inf, 0.3]])
    matches = np.array([[False, True, True], [False, False, True]])
    rank1, mean_average_precision = score(similarity, matches)
    assert rank1 == 0.5
    assert mean_average_precision == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
