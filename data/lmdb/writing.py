"""Packs a data set into one LMDB file."""

import logging
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
from tqdm import tqdm

from data.dataset import find_root, read_dataset, without_bad_images
from data.images import read_bytes
from data.lmdb.format import (
    ABOUT,
    FORMAT,
    IMAGES,
    SAMPLES,
    SUFFIX,
    add_checksum,
    image_key,
    is_lmdb,
    sample_key,
    to_json,
)
from data.lmdb.reading import read_about, read_lmdb
from data.options import DataOptions
from data.samples import Dataset
from utils.errors import DataError, ParamsError
from utils.files import atomic_path, expand_user, remove_leftovers
from utils.locks import locked
from utils.logs import bars_hidden

IMAGES_PER_TRANSACTION = 256
"""These are in memory together."""
READERS = 8
"""Threads that read files; they wait for the disk, not for a processor."""

logger = logging.getLogger(__name__)


def pack_dataset(out: Path, options: DataOptions) -> Dataset:
    """Read the data set that the options name, check its images, and write it to one LMDB file.

    If another process is packing to the same file, wait for it and keep its result if that is the same data set.

    Returns:
        What was written.

    Raises:
        DataError: the data set or its images cannot be read, or the disk is full.
        ParamsError: `out` exists or cannot be made, or the data set is an LMDB already.
    """
    _check_out(out)  # before every image is decoded to check it
    if len(options.data_sets) > 1:
        raise ParamsError("batches_dir: names several data sets; pack each into a file of its own, without test_dirs")
    if is_lmdb(expand_user(options.data_name)):
        raise ParamsError(f"batches_dir: {options.data_name} is packed already; name the folder it was made of")
    with locked(out.with_name(f".{out.name}.lock"), f"packing {out.name}", wait=True):
        remove_leftovers(out.parent, out.name)
        dataset = without_bad_images(read_dataset(options), options)
        root, layout = find_root(options)
        if out.is_file() and _holds(out, root, dataset, layout, options.test_list):
            logger.info("%s: was packed meanwhile by another process", out)
        else:
            write_lmdb(out, root, dataset, layout, options.test_list)
    return dataset


def write_lmdb(out: Path, root: Path, dataset: Dataset, layout: str, test_list: str = "") -> None:
    """Write a data set to one LMDB file, which appears when it is complete. Images are stored byte for byte.

    Args:
        root: folder that contains all samples; their paths relative to it are kept.
        layout, test_list: how the folder was read.

    Raises:
        DataError: a file cannot be read, or the disk is full.
        ParamsError: `out` exists or cannot be made.
    """
    _check_out(out)
    # An image of several splits is stored once.
    paths = list(dict.fromkeys(sample.path for split in dataset for sample in split))
    try:
        with atomic_path(out) as temporary:
            # No other process knows the temporary file, so it needs no locks; atomic_path syncs it to the disk.
            environment = lmdb.open(
                os.fsencode(temporary), subdir=False, lock=False, sync=False, max_dbs=2, map_size=_map_size(paths)
            )
            with environment:
                _write_images(environment, root, paths)
                _write_samples(environment, root, dataset)
                about = {
                    "format": FORMAT,
                    "layout": layout,
                    "test_list": test_list,
                    "num_samples": {name: len(split) for name, split in dataset._asdict().items()},
                }
                with environment.begin(write=True) as transaction:
                    transaction.put(ABOUT, add_checksum(ABOUT, to_json(about)))
    except lmdb.Error as error:
        raise DataError(f"{out}: cannot be written: {error}") from error


def _holds(out: Path, root: Path, dataset: Dataset, layout: str, test_list: str) -> bool:
    """Whether an LMDB file lists the same samples, read in the same way; the images' bytes are not compared."""
    try:
        about, packed = read_about(out), read_lmdb(out)
    except DataError:
        return False
    moved = ([sample._replace(path=out / _relative(sample.path, root)) for sample in split] for split in dataset)
    return (about.layout, about.test_list) == (layout, test_list) and packed == Dataset(*moved)


def _check_out(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise ParamsError(f"--out {out}: the name of an LMDB file must end in {SUFFIX}")
    if os.path.lexists(out):
        raise ParamsError(f"--out {out}: exists already; remove it or name another file")
    if not out.parent.is_dir():
        raise ParamsError(f"--out {out}: there is no folder {out.parent}; make it first")


def _map_size(paths: Sequence[Path]) -> int:
    """Bytes that the file may grow to; this reserves address space only, twice what full pages take and some more."""
    try:
        return 2**26 + 2 * sum(path.stat().st_size + 3 * mmap.PAGESIZE for path in paths)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _write_images(environment: lmdb.Environment, root: Path, paths: Sequence[Path]) -> None:
    images = environment.open_db(IMAGES)
    progress = tqdm(desc="packing images", total=len(paths), unit="img", leave=False, disable=bars_hidden())
    with ThreadPoolExecutor(READERS) as pool, progress:
        for first in range(0, len(paths), IMAGES_PER_TRANSACTION):
            batch = paths[first : first + IMAGES_PER_TRANSACTION]
            with environment.begin(write=True, db=images) as transaction:
                for path, content in zip(batch, pool.map(read_bytes, batch), strict=True):
                    key = image_key(_relative(path, root))
                    transaction.put(key, add_checksum(key, content))
            progress.update(len(batch))


def _write_samples(environment: lmdb.Environment, root: Path, dataset: Dataset) -> None:
    samples = [(name, sample) for name, split in dataset._asdict().items() for sample in split]
    with environment.begin(write=True, db=environment.open_db(SAMPLES)) as transaction:
        for number, (name, (path, pid, camid)) in enumerate(samples):
            key = sample_key(number)
            content = to_json({"split": name, "pid": pid, "camid": camid, "path": _relative(path, root)})
            transaction.put(key, add_checksum(key, content), append=True)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
