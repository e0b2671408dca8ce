"""Embed a folder of images: `python -m deploy.embed DIR --model model.onnx --out features.npz`.

DIR is a data set in any layout that training reads, or a folder with images directly in it. Of a data set the query and
gallery images are embedded; without these, all images as gallery. Images without a pid in their name or folder get -1,
images without a camera 0.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from data.dataset import read_root, without_bad_images
from data.features import Features, TestFeatures, write_features
from data.layouts.layout import images
from data.layouts.market import NAME
from data.options import DataOptions
from data.samples import JUNK_PID, Dataset, Sample
from deploy.predictor import Predictor, predictor_of, predictor_parser
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.files import expand_user
from utils.logs import bars_hidden, log_to_screen

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> feature file."""
    args = parse_arguments(argv)
    log_to_screen()
    dataset = images_to_embed(args.folder)
    if args.skip_unreadable:
        dataset = without_bad_images(dataset, DataOptions(bad_images="skip"))
    predictor = predictor_of(args)
    features = TestFeatures(embed(predictor, dataset.query, "query"), embed(predictor, dataset.gallery, "gallery"))
    write_features(args.out, features)
    counts = f"{len(features.query.pids)} query and {len(features.gallery.pids)} gallery images"
    logger.info("written: %s, embeddings of %s of size %d", args.out, counts, predictor.embedding_dim)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = predictor_parser("python -m deploy.embed", __doc__, batch_size=32)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the images, or an .lmdb file of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    parser.add_argument("--skip-unreadable", action="store_true", help="skip unreadable images instead of stopping")
    return parser.parse_args(argv)


def images_to_embed(folder: Path) -> Dataset:
    """The query and gallery images of a folder or LMDB file, as described above.

    Raises:
        DataError: there are no images.
    """
    folder = expand_user(folder)
    if flat := images(folder) if folder.is_dir() else []:
        return Dataset([], [], [_sample(path) for path in flat], [])
    dataset = read_root(folder)
    if dataset.query or dataset.gallery:
        return dataset._replace(train=[], val=[])
    if not (rest := [*dataset.train, *dataset.val]):
        raise DataError(f"{folder}: no images")
    logger.info("%s: neither query nor gallery; all %d images are embedded as gallery", folder, len(rest))
    return Dataset([], [], rest, [])


def embed(predictor: Predictor, samples: list[Sample], description: str) -> Features:
    """Embeddings of images, of unit length, with their pids and cameras; `description` labels the progress bar.

    Raises:
        DataError: an image is unreadable.
    """
    paths = (sample.path for sample in samples)
    with tqdm(paths, description, len(samples), unit="img", leave=False, disable=bars_hidden()) as progress:
        rows = torch.from_numpy(predictor(progress))
    pids = torch.tensor([sample.pid for sample in samples], dtype=torch.int64)
    camids = torch.tensor([sample.camid for sample in samples], dtype=torch.int64)
    return Features(rows, pids, camids, samples, predictor.branch_dims)


def _sample(path: Path) -> Sample:
    name = NAME.match(path.name)
    return Sample(path, int(name["pid"]), int(name["camid"])) if name else Sample(path, JUNK_PID, 0)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
