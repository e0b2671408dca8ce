"""From the options of the data to samples that are known to be readable, and a summary of them."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.images import BadImage, find_bad_images
from data.layouts import LayoutChoice, describe_layouts, detect_layout, read_layout
from data.lmdb.format import is_lmdb
from data.lmdb.reading import read_lmdb
from data.options import DataOptions
from data.samples import DISTRACTOR_PID, JUNK_PID, Dataset, Sample, sorted_pids
from data.synthetic import cached_synthetic
from utils.distributed import gather_objects, this_process
from utils.errors import DataError, ParamsError

SYNTHETIC = "synthetic"
SYNTHETIC_ROOT = Path("datasets")

logger = logging.getLogger(__name__)


def read_dataset(options: DataOptions) -> Dataset:
    """The data set in `batches_dir`; the synthetic pedestrians are made first if they are not there yet."""
    if options.batches_dir == SYNTHETIC:
        return read_layout(cached_synthetic(SYNTHETIC_ROOT, options.synthetic), "market", options.test_list)
    return read_root(Path(options.batches_dir).expanduser(), options.data_layout, options.test_list)


def read_root(root: Path, layout: LayoutChoice = "auto", test_list: str = "") -> Dataset:
    """The data set in a folder or in an LMDB file; raises as `read_layout` and `read_lmdb`."""
    return read_lmdb(root, layout, test_list) if is_lmdb(root) else read_layout(root, layout, test_list)


def find_root(options: DataOptions) -> tuple[Path, str]:
    """Folder that `read_dataset` reads, and the layout it has; "auto" is what is found there."""
    if options.batches_dir == SYNTHETIC:
        return cached_synthetic(SYNTHETIC_ROOT, options.synthetic), "market"
    root = Path(options.batches_dir).expanduser()
    return root, detect_layout(root) if options.data_layout == "auto" else options.data_layout


def without_bad_images(dataset: Dataset, options: DataOptions) -> Dataset:
    """Check every image of the data set before anything is trained on it; the processes of a run share the work.

    Raises:
        DataError: some are unreadable and `bad_images` is "error"; the message names them all.
    """
    paths = [sample.path for split in dataset for sample in split]
    mine = this_process().share(len(paths))
    place_of = {path: place for place, path in enumerate(paths)}
    # Told by their places: another machine may have the same images elsewhere.
    found = [(place_of[path], reason) for path, reason in find_bad_images(paths[mine])]
    bad = [BadImage(paths[place], reason) for share in gather_objects(found) for place, reason in share]
    if not bad:
        return dataset
    if options.bad_images == "error":
        listing = "\n".join(f"  {path}: {reason}" for path, reason in bad)
        raise DataError(f'{len(bad)} unreadable images; mend them or set "bad_images": "skip":\n{listing}')
    for path, reason in bad:
        logger.warning("left out: %s: %s", path, reason)
    bad_paths = {path for path, _ in bad}
    return Dataset(*([sample for sample in split if sample.path not in bad_paths] for split in dataset))


def check_training_set(train: Sequence[Sample], options: DataOptions, world_size: int = 1) -> None:
    """Refuse a training set the sampler cannot use, and say in one line each what is odd but legal.

    Args:
        world_size: processes that train together, each on images of its own.

    Raises:
        DataError: no images, or fewer than two identities.
        ParamsError: P of the P x K sampling exceeds the number of identities, or a batch that of the images.
    """
    images_of = Counter(sample.pid for sample in train)
    sampling = options.batch_sampling_params
    if not train:
        expected = describe_layouts(options.data_layout)
        raise DataError(f"{options.batches_dir}: no training images found; expected {expected}")
    if len(images_of) < 2:
        raise DataError(f"{options.batches_dir}: the training set has {len(images_of)} identity; at least 2 are needed")
    spread = f" on each of {world_size} devices" if world_size > 1 else ""
    if sampling.class_balanced and len(images_of) < world_size * sampling.P:
        raise ParamsError(
            f"batch_sampling_params.P: {sampling.P} identities a batch{spread}, but the training set has "
            f"{len(images_of)}; lower P"
        )
    if not sampling.class_balanced and world_size * options.batch_images > len(train):
        raise ParamsError(
            f"batch_size: {options.batch_images}{spread} is more than the {len(train)} training images; lower it"
        )
    if sampling.class_balanced and (few := sum(number < sampling.K for number in images_of.values())):
        logger.info("%d identities have fewer than K = %d images; theirs are repeated in a batch", few, sampling.K)
    if single := sum(number == 1 for number in images_of.values()):
        logger.info("%d identities have one image only", single)
    cameras_of = Counter(pid for pid, _ in {(sample.pid, sample.camid) for sample in train})
    num_cameras = len({sample.camid for sample in train})
    if num_cameras > 1 and (lone := sum(number == 1 for number in cameras_of.values())):
        logger.info("%d training identities are seen by one camera only", lone)


def summary_table(dataset: Dataset) -> str:
    """A table of images, identities and cameras of each split there is; junk and distractors are counted apart."""
    rows = [f"{'split':<10}{'images':>8}{'pids':>8}{'cameras':>9}{'distractors':>13}{'junk':>6}"]
    for name, split in zip(Dataset._fields, dataset, strict=True):
        if not split and name != "train":
            continue
        # Identity 0 is a person like any other among those trained on.
        is_trained = name in ("train", "val")
        pids = sorted_pids(split)
        persons = pids if is_trained else [pid for pid in pids if pid not in (JUNK_PID, DISTRACTOR_PID)]
        cameras = {sample.camid for sample in split}
        distractors = 0 if is_trained else sum(sample.pid == DISTRACTOR_PID for sample in split)
        junk = sum(sample.pid == JUNK_PID for sample in split)
        rows.append(f"{name:<10}{len(split):>8}{len(persons):>8}{len(cameras):>9}{distractors:>13}{junk:>6}")
    return "\n".join(rows)
