"""How fast the synthetic pedestrians are made, and how far nearest neighbours get on them without learning.

    python -m benchmarks.synthetic_difficulty [--seed 1] [--keep FOLDER]

Prints images per second and the rank-1 and mAP of raw pixels and of two colour histograms. A data set that a
histogram solves teaches a network nothing; these numbers have to stay low.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data.synthetic import SyntheticOptions, make_synthetic


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="seed of the data set")
    parser.add_argument("--keep", type=Path, help="folder to make the data set in; without it the set is deleted")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        folder = make_synthetic(args.keep or Path(temporary) / "set", SyntheticOptions(seed=args.seed))
        elapsed = time.perf_counter() - start
        count = sum(1 for _ in folder.rglob("*.jpg"))
        print(f"made {count} images in {elapsed:.1f} s: {count / elapsed:.0f} images/s")
        for name, (rank1, mean_average_precision) in measure(folder).items():
            print(f"{name:26s} rank-1 {100 * rank1:5.1f} %   mAP {100 * mean_average_precision:5.1f} %")


if __name__ == "__main__":
    main()
