"""Divide a data set by cameras, to train on some of them and evaluate on others.

    python -m benchmarks.cameras datasets/Market-1501 --train 2+5 3+4 --test 1+6 --out datasets/cameras

Writes a folder for each argument, here datasets/cameras/2+5, 3+4 and 1+6, in the layout of Market-1501: of --train with
the training images of these cameras, of --test with the query and gallery images. All are links to the images.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from data.dataset import read_root
from data.samples import Sample
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.logs import log_to_screen


def main(argv: Sequence[str]) -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set, in the layout of Market-1501")
    parser.add_argument("--train", nargs="+", required=True, metavar="C+C", help="cameras of each training set")
    parser.add_argument("--test", nargs="+", required=True, metavar="C+C", help="cameras of each test set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data sets")
    args = parser.parse_args(argv)
    dataset = read_root(args.data, "market")
    for name in args.train:
        link(dataset.train, name, args.out / name / "bounding_box_train")
    for name in args.test:
        link(dataset.query, name, args.out / name / "query")
        link(dataset.gallery, name, args.out / name / "bounding_box_test")


def link(samples: Sequence[Sample], cameras: str, folder: Path) -> None:
    """Fill a folder, which is made anew, with links to the images of some cameras, such as "2+5".

    Raises:
        DataError: these cameras have no images.
    """
    chosen = [sample.path for sample in samples if str(sample.camid) in cameras.split("+")]
    if not chosen:
        raise DataError(f"{cameras}: no images of these cameras for {folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in chosen:
        (folder / path.name).symlink_to(path.resolve())


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
