"""From the data options to samples that are known to be readable, and a summary of them."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.images import BadImage, find_bad_images
from data.layouts import LayoutChoice, describe_layouts, detect_layout, read_layout
from data.lmdb.format import is_lmdb
from data.lmdb.reading import read_lmdb
from data.options import DataOptions
from data.samples import DISTRACTOR_PID, JUNK_PID, UNKNOWN_PID, Dataset, Sample, sorted_pids, source_of
from utils.distributed import gather_objects, this_process
from utils.errors import DataError, ParamsError
from utils.files import expand_user

SYNTHETIC = "synthetic"
SYNTHETIC_ROOT = Path("datasets")

logger = logging.getLogger(__name__)


def read_dataset(options: DataOptions) -> Dataset:
    """The data set in `batches_dir`, corrected by `label_fixes`; the synthetic pedestrians are generated if missing.

    Several data sets are joined as `data.sources.join` says.
    """
    if len(options.data_sets) > 1:
        # Only here, as most trainings have one.
        from data.sources import check_folders, join

        check_folders(options)
        return join([read_dataset(options.with_data(path)) for path in options.data_sets], options)
    root, layout = _root_and_layout(options)
    dataset = read_root(root, layout, options.test_list)
    if not options.label_fixes:
        return dataset
    # Only here, as most trainings need none.
    from data.label_fixes import apply_fixes

    files = (options.label_fixes,) if isinstance(options.label_fixes, str) else options.label_fixes
    for path in files:
        dataset = apply_fixes(dataset, expand_user(path), root)
    return dataset


def read_root(root: Path, layout: LayoutChoice = "auto", test_list: str = "") -> Dataset:
    """The data set in a folder or in an LMDB file; raises as `read_layout` and `read_lmdb`."""
    return read_lmdb(root, layout, test_list) if is_lmdb(root) else read_layout(root, layout, test_list)


def find_root(options: DataOptions) -> tuple[Path, str]:
    """Folder that `read_dataset` reads, and its layout; "auto" is resolved."""
    root, layout = _root_and_layout(options)
    return root, detect_layout(root) if layout == "auto" else layout


def _root_and_layout(options: DataOptions) -> tuple[Path, LayoutChoice]:
    assert isinstance(options.batches_dir, str)
    if options.batches_dir == SYNTHETIC:
        # Only here, as real data sets need none of the renderer.
        from data.synthetic.dataset import cached_synthetic

        return cached_synthetic(SYNTHETIC_ROOT, options.synthetic), "market"
    return expand_user(options.batches_dir), options.data_layout


def without_bad_images(dataset: Dataset, options: DataOptions) -> Dataset:
    """The data set without unreadable images; all images are checked, and the processes of a run share the work.

    Raises:
        DataError: some are unreadable and `bad_images` is "error"; the message names all of them.
    """
    paths = [sample.path for split in dataset for sample in split]
    mine = this_process().share(len(paths))
    index_of = {path: index for index, path in enumerate(paths)}
    # Exchanged by index: another machine may have the same images under another path.
    found = [(index_of[path], reason) for path, reason in find_bad_images(paths[mine])]
    bad = [BadImage(paths[index], reason) for share in gather_objects(found) for index, reason in share]
    if not bad:
        return dataset
    if options.bad_images == "error":
        listing = "\n".join(f"  {path}: {reason}" for path, reason in bad)
        raise DataError(f'{len(bad)} unreadable images; repair them or set "bad_images": "skip":\n{listing}')
    for path, reason in bad:
        logger.warning("left out: %s: %s", path, reason)
    bad_paths = {path for path, _ in bad}
    return Dataset(*([sample for sample in split if sample.path not in bad_paths] for split in dataset))


def check_training_set(train: Sequence[Sample], options: DataOptions, world_size: int = 1) -> None:
    """Refuse a training set that cannot be sampled, and log what is unusual but valid.

    Args:
        world_size: processes that train together, each on images of its own.

    Raises:
        DataError: no images, images without labels, or fewer than two identities.
        ParamsError: a batch needs more identities or images than the training set has.
    """
    images_of = Counter(sample.pid for sample in train)
    sampling = options.batch_sampling_params
    _check_any(train, options)
    if UNKNOWN_PID in images_of:
        numbers = {source_of(sample.camid) for sample in train if sample.pid == UNKNOWN_PID}
        names = ", ".join(options.sources[number] for number in sorted(numbers))
        leave = "leave it out, or " if len(options.sources) > 1 else ""
        text = f"{leave}set clustering_params.method to train without labels (docs/training.md)"
        raise DataError(f"{names}: the training images have no labels; {text}")
    if len(images_of) < 2:
        raise DataError(f"{options.data_name}: the training set has {len(images_of)} identity; at least 2 are needed")
    spread = f" on each of {world_size} devices" if world_size > 1 else ""
    if sampling.balance in ("source", "one_source"):
        # Only here, as most trainings have one data set.
        from data.sources import check_balance

        check_balance(train, options, world_size)
    if sampling.class_balanced and len(images_of) < world_size * sampling.P:
        raise ParamsError(
            f"batch_sampling_params.P: {sampling.P} identities a batch{spread}, but the training set has "
            f"{len(images_of)}; lower P"
        )
    if not sampling.class_balanced and world_size * options.batch_images > len(train):
        raise ParamsError(
            f"batch_size: {options.batch_images}{spread} is more than the {len(train)} training images; lower it"
        )
    _log_unusual(train, images_of, sampling.K if sampling.class_balanced else 1)


def check_unlabelled_set(train: Sequence[Sample], options: DataOptions, smallest: int, world_size: int = 1) -> None:
    """Refuse a training set that cannot form the clusters of a batch.

    Args:
        smallest: images of the smallest cluster.
        world_size: processes that train together, each on clusters of its own.

    Raises:
        DataError: no images.
        ParamsError: too few.
    """
    _check_any(train, options)
    P = world_size * options.batch_sampling_params.P
    if len(train) < P * smallest:
        raise ParamsError(
            f"batch_sampling_params.P: a batch on all devices has {P} clusters, but the {len(train)} training images "
            f"form at most {len(train) // smallest} of clustering_params.min_samples {smallest} images; lower P"
        )


def _check_any(train: Sequence[Sample], options: DataOptions) -> None:
    if not train:
        expected = describe_layouts(options.data_layout)
        raise DataError(f"{options.data_name}: no training images found; expected {expected}")


def _log_unusual(train: Sequence[Sample], images_of: Counter[int], K: int) -> None:
    if few := sum(number < K for number in images_of.values()):
        logger.info("%d identities have fewer than K = %d images; these are repeated in a batch", few, K)
    if single := sum(number == 1 for number in images_of.values()):
        logger.info("%d identities have one image only", single)
    cameras_of = Counter(pid for pid, _ in {(sample.pid, sample.camid) for sample in train})
    num_cameras = len({sample.camid for sample in train})
    if num_cameras > 1 and (lone := sum(number == 1 for number in cameras_of.values())):
        logger.info("%d training identities are seen by one camera only", lone)


def log_summary(dataset: Dataset, options: DataOptions) -> None:
    """Log the table of each data set, and of several together."""
    if len(options.data_sets) > 1:
        # Only here, as most trainings have one.
        from data.sources import part

        for number, path in enumerate(options.data_sets):
            logger.info("data set %s\n%s", path, summary_table(part(dataset, number)))
        logger.info("together\n%s", summary_table(dataset))
    else:
        logger.info("data set %s\n%s", options.data_name, summary_table(dataset))


def summary_table(dataset: Dataset) -> str:
    """A table of images, identities and cameras of each split; junk and distractors are counted separately."""
    rows = [f"{'split':<10}{'images':>8}{'pids':>8}{'cameras':>9}{'distractors':>13}{'junk':>6}"]
    for name, split in dataset._asdict().items():
        if not split and name != "train":
            continue
        # In training, pid 0 is an identity like any other.
        special = (UNKNOWN_PID,) if name in ("train", "val") else (JUNK_PID, DISTRACTOR_PID)
        persons = [pid for pid in sorted_pids(split) if pid not in special]
        cameras = {sample.camid for sample in split}
        distractors = sum(sample.pid == DISTRACTOR_PID for sample in split) if DISTRACTOR_PID in special else 0
        junk = sum(sample.pid == JUNK_PID for sample in split)
        rows.append(f"{name:<10}{len(split):>8}{len(persons):>8}{len(cameras):>9}{distractors:>13}{junk:>6}")
    return "\n".join(rows)
