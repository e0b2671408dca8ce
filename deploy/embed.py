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

import numpy as np
import torch
from tqdm import tqdm

from data.dataset import read_root
from data.features import Features, TestFeatures, write_features
from data.layouts.layout import images
from data.layouts.market import NAME
from data.samples import JUNK_PID, Sample
from deploy.predictor import Predictor, embed_batches, predictor_of, predictor_parser
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.files import expand_user
from utils.logs import bars_hidden, log_to_screen

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> feature file."""
    args = parse_arguments(argv)
    log_to_screen()
    query, gallery = split_images(args.folder)
    predictor = predictor_of(args)
    skip = args.skip_unreadable
    features = TestFeatures(*(embed(predictor, *part, skip=skip) for part in ((query, "query"), (gallery, "gallery"))))
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


def split_images(folder: Path) -> tuple[list[Sample], list[Sample]]:
    """The query and gallery images of a folder or LMDB file, as described above.

    Raises:
        DataError: there are no images.
    """
    folder = expand_user(folder)
    if flat := images(folder) if folder.is_dir() else []:
        return [], [_sample(path) for path in flat]
    dataset = read_root(folder)
    if dataset.query or dataset.gallery:
        return dataset.query, dataset.gallery
    if not (rest := [*dataset.train, *dataset.val]):
        raise DataError(f"{folder}: no images")
    logger.info("%s: neither query nor gallery; all %d images are embedded as gallery", folder, len(rest))
    return [], rest


def embed(predictor: Predictor, samples: Sequence[Sample], description: str, *, skip: bool = False) -> Features:
    """Embeddings of images, of unit length, with their pids and cameras.

    Args:
        description: label of the progress bar.
        skip: skip unreadable images, with a warning for each.

    Raises:
        DataError: an image is unreadable, and `skip` is off.
    """
    kept: list[Sample] = []
    rows = [np.empty((0, predictor.embedding_dim), np.float32)]
    with tqdm(desc=description, total=len(samples), unit="img", leave=False, disable=bars_hidden()) as progress:
        for batch in embed_batches(predictor, (sample.path for sample in samples)):
            for error in batch.errors.values():
                if not skip:
                    raise error
                logger.warning("left out: %s", error)
            rows.append(batch.vectors)
            kept += [samples[number] for number in batch.numbers]
            progress.update(len(batch.numbers) + len(batch.errors))
    pids = torch.tensor([sample.pid for sample in kept], dtype=torch.int64)
    camids = torch.tensor([sample.camid for sample in kept], dtype=torch.int64)
    return Features(torch.from_numpy(np.concatenate(rows)), pids, camids, kept, predictor.branch_dims)


def _sample(path: Path) -> Sample:
    name = NAME.match(path.name)
    return Sample(path, int(name["pid"]), int(name["camid"])) if name else Sample(path, JUNK_PID, 0)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
