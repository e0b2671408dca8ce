"""Embed a folder of images: `python -m deploy.embed DIR --model model.onnx --out features.npz`.

DIR is a data set in any layout that training knows, of which query and gallery are embedded or, if it has neither, all
images; or a folder with images directly in it. What has no query is gallery as a whole. An image without a pid in its
name or folder gets -1, one without a camera 0.
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
from data.read_ahead import read_ahead
from data.samples import JUNK_PID, Sample
from deploy.predictor import Predictor
from utils.cli import exit_code_of, whole_number
from utils.errors import DataError
from utils.files import expand_user
from utils.logs import bars_hidden, log_to_screen

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> feature file."""
    args = parse_arguments(argv)
    log_to_screen()
    query, gallery = split_images(args.folder)
    predictor = Predictor(args.model, batch_size=args.batch_size, threads=args.threads)
    parts = [
        embed(predictor, samples, name, skip=args.skip_unreadable)
        for name, samples in (("query", query), ("gallery", gallery))
    ]
    write_features(args.out, TestFeatures(*parts))
    counts = " and ".join(f"{len(part.pids)} {name}" for part, name in zip(parts, ("query", "gallery"), strict=True))
    logger.info("written: %s, embeddings of %s images of size %d", args.out, counts, predictor.embedding_dim)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    number = whole_number(1, 100_000)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the images, or an .lmdb file of them")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="a model.onnx or model_best.pth")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    parser.add_argument("--batch-size", type=number, default=32, metavar="N", help="images at once; default: 32")
    parser.add_argument("--threads", type=number, default=0, metavar="N", help="processors; default: all")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out what cannot be read, instead of stopping"
    )
    return parser.parse_args(argv)


def split_images(folder: Path) -> tuple[list[Sample], list[Sample]]:
    """The query and gallery images of a folder or LMDB file, as the top of this file says.

    Raises:
        DataError: there are no images.
    """
    folder = expand_user(folder)
    if flat := images(folder) if folder.is_dir() else []:
        return [], [_labelled(path) for path in flat]
    dataset = read_root(folder)
    if dataset.query or dataset.gallery:
        return dataset.query, dataset.gallery
    if not (rest := [*dataset.train, *dataset.val]):
        raise DataError(f"{folder}: no images")
    logger.info("%s: neither query nor gallery; all %d images are embedded as gallery", folder, len(rest))
    return [], rest


def embed(predictor: Predictor, samples: Sequence[Sample], description: str, *, skip: bool = False) -> Features:
    """Embeddings of images, of unit length, and whom they show.

    Args:
        description: stands before the progress bar.
        skip: leave unreadable images out, with a warning for each.

    Raises:
        DataError: an image is unreadable, and `skip` is off.
    """

    def prepared(batch: Sequence[Sample]) -> list[tuple[Sample, np.ndarray]]:
        found = []
        for sample in batch:
            try:
                found.append((sample, predictor.prepare(sample.path)))
            except DataError as error:
                if not skip:
                    raise
                logger.warning("left out: %s", error)
        return found

    size = predictor.batch_size
    batches = (samples[first : first + size] for first in range(0, len(samples), size))
    kept: list[Sample] = []
    rows = [np.empty((0, predictor.embedding_dim), np.float32)]
    with tqdm(desc=description, total=len(samples), unit="img", leave=False, disable=bars_hidden()) as progress:
        for batch in read_ahead(prepared, batches):
            if batch:
                rows.append(predictor.embed(np.stack([pixels for _, pixels in batch])))
                kept += [sample for sample, _ in batch]
            progress.update(size)
    pids = torch.tensor([sample.pid for sample in kept], dtype=torch.int64)
    camids = torch.tensor([sample.camid for sample in kept], dtype=torch.int64)
    return Features(torch.from_numpy(np.concatenate(rows)), pids, camids, kept, predictor.branch_dims)


def _labelled(path: Path) -> Sample:
    name = NAME.match(path.name)
    return Sample(path, int(name["pid"]), int(name["camid"])) if name else Sample(path, JUNK_PID, 0)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
