"""Packs a data set into one LMDB file: one large file instead of many small ones, for slow or shared disks."""

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
from data.lmdb_format import ABOUT, FORMAT, IMAGES, SAMPLES, SUFFIX, image_key, is_lmdb, sample_key, seal, to_json
from data.lmdb_index import append_seal
from data.lmdb_reading import read_about, read_image, read_lmdb
from data.options import DataOptions
from data.samples import Dataset
from utils.errors import DataError, ParamsError
from utils.files import atomic_path, remove_leftovers
from utils.locks import locked
from utils.logs import bars_hidden

AT_ONCE = 256
"""Images of one transaction; these are in memory together."""
READERS = 8
"""Threads that read files: they wait for the disk, not for a processor."""

logger = logging.getLogger(__name__)


def pack_dataset(out: Path, options: DataOptions) -> Dataset:
    """Read the data set that the options name, check its images, and write it to one LMDB file.

    While another process packs something there, it is waited for; the same data set is then taken as packed.

    Returns:
        What was written.

    Raises:
        DataError: the data set or images of it cannot be read, or the disk is full.
        ParamsError: `out` exists or cannot be made, or the data set is an LMDB already.
    """
    _check_out(out)  # before every image is decoded to check it
    if is_lmdb(Path(options.batches_dir).expanduser()):
        raise ParamsError(f"batches_dir: {options.batches_dir} is packed already; name the folder it was made of")
    with locked(out.with_name(f".{out.name}.lock"), f"packing {out.name}", wait=True):
        remove_leftovers(out.parent, out.name)
        dataset = without_bad_images(read_dataset(options), options)
        root, layout = find_root(options)
        if out.is_file() and _holds(out, root, dataset, layout, options.test_list):
            logger.info("%s: was packed meanwhile by another process", out)
        else:
            write_lmdb(out, root, dataset, layout, options.test_list)
    return dataset


def _holds(out: Path, root: Path, dataset: Dataset, layout: str, test_list: str) -> bool:
    """Whether an LMDB file is what `write_lmdb` would write, to the bytes of its images."""
    try:
        about, packed = read_about(out), read_lmdb(out)
        if (about.layout, about.test_list) != (layout, test_list):
            return False
        moved = ([sample._replace(path=out / _relative(sample.path, root)) for sample in split] for split in dataset)
        if packed != Dataset(*moved):
            return False
        paths = dict.fromkeys(sample.path for split in dataset for sample in split)
        return all(read_image(out, _relative(path, root)) == read_bytes(path) for path in paths)
    except (DataError, OSError):
        return False  # another program's


def write_lmdb(out: Path, root: Path, dataset: Dataset, layout: str, test_list: str = "") -> None:
    """Write a data set to one LMDB file, which appears when it is complete. Images stay as they are, byte for byte.

    Args:
        root: folder that the paths of all samples begin with; what follows it is kept.
        layout, test_list: what the folder was read as.

    Raises:
        DataError: a file cannot be read, or the disk is full.
        ParamsError: `out` exists or cannot be made.
    """
    _check_out(out)
    # An image of several splits is stored once.
    paths = list(dict.fromkeys(sample.path for split in dataset for sample in split))
    try:
        with atomic_path(out) as temporary:
            # Nobody else knows the file yet, so it needs no locks, and it is forced to the disk once, at its end.
            environment = lmdb.open(
                os.fsencode(temporary), subdir=False, lock=False, sync=False, max_dbs=2, map_size=_map_size(paths)
            )
            with environment:
                sizes = _write_images(environment, root, paths)
                _write_samples(environment, root, dataset, sizes)
                about = {
                    "format": FORMAT,
                    "layout": layout,
                    "test_list": test_list,
                    "num_samples": {name: len(split) for name, split in zip(Dataset._fields, dataset, strict=True)},
                }
                with environment.begin(write=True) as transaction:
                    transaction.put(ABOUT, seal(ABOUT, to_json(about)))
                num_pages = _count_pages(environment)
            append_seal(temporary, num_pages)
    except lmdb.Error as error:
        raise DataError(f"{out}: cannot be written: {error}") from error


def _check_out(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise ParamsError(f"--out {out}: the name of an LMDB file must end in {SUFFIX}")
    if os.path.lexists(out):
        raise ParamsError(f"--out {out}: exists already; remove it or name another file")
    if not out.parent.is_dir():
        raise ParamsError(f"--out {out}: there is no folder {out.parent}; make it first")


def _map_size(paths: Sequence[Path]) -> int:
    """Bytes that the file can grow to; address space only. Twice what full pages would take, and some more."""
    return 2**26 + 2 * sum(_stat_size(path) + 3 * mmap.PAGESIZE for path in paths)


def _stat_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _write_images(environment: lmdb.Environment, root: Path, paths: Sequence[Path]) -> dict[Path, int]:
    """Write every image, in the order given, which is that on the disk; returns their sizes in bytes."""
    images = environment.open_db(IMAGES)
    sizes: dict[Path, int] = {}
    progress = tqdm(desc="packing images", total=len(paths), unit="img", leave=False, disable=bars_hidden())
    with ThreadPoolExecutor(READERS) as pool, progress:
        for first in range(0, len(paths), AT_ONCE):
            batch = paths[first : first + AT_ONCE]
            with environment.begin(write=True, db=images) as transaction:
                for path, content in zip(batch, pool.map(read_bytes, batch), strict=True):
                    key = image_key(_relative(path, root))
                    transaction.put(key, seal(key, content))
                    sizes[path] = len(content)
            progress.update(len(batch))
    return sizes


def _write_samples(environment: lmdb.Environment, root: Path, dataset: Dataset, sizes: dict[Path, int]) -> None:
    samples = environment.open_db(SAMPLES)
    with environment.begin(write=True, db=samples) as transaction:
        number = 0
        for name, split in zip(Dataset._fields, dataset, strict=True):
            for path, pid, camid in split:
                fields = {"split": name, "pid": pid, "camid": camid, "path": _relative(path, root)}
                key = sample_key(number)
                transaction.put(key, seal(key, to_json({**fields, "length": sizes[path]})), append=True)
                number += 1


def _count_pages(environment: lmdb.Environment) -> int:
    """Pages of the index: the branches and leaves of the main database, which holds the other two, and of these."""
    databases = [None, environment.open_db(IMAGES), environment.open_db(SAMPLES)]
    with environment.begin() as transaction:
        stats = [environment.stat() if database is None else transaction.stat(database) for database in databases]
    return sum(stat["branch_pages"] + stat["leaf_pages"] for stat in stats)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
