"""Several data sets as one: to train on some of them, and to be evaluated on some."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.lmdb.format import is_lmdb
from data.options import DataOptions
from data.samples import SOURCE_STRIDE, UNKNOWN_PID, Dataset, Sample, source_of
from utils.errors import DataError, ParamsError
from utils.files import expand_user


def check_folders(options: DataOptions) -> None:
    """Check that no data set is named twice.

    Raises:
        ParamsError: one is, by the same path or by another, such as that of a link.
    """
    key = "test_dirs" if options.test_dirs else "batches_dir"
    named: dict[Path, str] = {}
    for path in options.data_sets:
        place = expand_user(path).resolve()
        if place in named:
            raise ParamsError(f"{key}: {path} is the same folder as {named[place]}; name each data set by one path")
        named[place] = path


def join(datasets: Sequence[Dataset], options: DataOptions) -> Dataset:
    """The training halves of the data sets of `batches_dir`, and the test halves of those to evaluate on.

    Identities and cameras of the n-th data set are raised by n * SOURCE_STRIDE, so that no two data sets share any;
    only junk and distractors of a test half, and unknown identities, keep their numbers.

    Args:
        datasets: of each of `options.data_sets`.
        options: say which are trained on, and which are tested.

    Raises:
        DataError: no training images where there should be some; a file in two data sets, or under two identities;
            numbers of identities or cameras that are too large.
    """
    joined = Dataset([], [], [], [])
    for number, (path, dataset) in enumerate(zip(options.data_sets, datasets, strict=True)):
        if path in options.sources:
            if not dataset.train:
                raise DataError(f"batches_dir: {path}: no training images; leave it out, or name it in test_dirs")
            joined.train.extend(_raised(dataset.train, number))
        if path in options.test_sets:
            joined.query.extend(_raised(dataset.query, number, is_test=True))
            joined.gallery.extend(_raised(dataset.gallery, number, is_test=True))
            joined.val.extend(_raised(dataset.val, number))
    _check_files(joined, options)
    return joined


def part(dataset: Dataset, number: int) -> Dataset:
    """What `join` took from the data set of this number, as it was."""
    return Dataset(*([lowered(sample) for sample in split if source_of(sample.camid) == number] for split in dataset))


def lowered(sample: Sample) -> Sample:
    """The image with the identity and camera that its own data set gives it."""
    return sample._replace(pid=_own_pid(sample), camid=sample.camid - source_of(sample.camid) * SOURCE_STRIDE)


def check_balance(train: Sequence[Sample], options: DataOptions, world_size: int) -> None:
    """Check that every data set has the identities that balanced batches take of it.

    Raises:
        ParamsError: one has too few; the message names it.
    """
    sampling = options.batch_sampling_params
    needed = world_size * sampling.P // (len(options.sources) if sampling.balance == "source" else 1)
    for number, path in enumerate(options.sources):
        has = len({sample.pid for sample in train if source_of(sample.camid) == number})
        if has < needed:
            raise ParamsError(
                f"batch_sampling_params.P: {needed} identities of each data set in a batch of all devices, but {path} "
                f'has {has}; lower P, or set batch_sampling_params.balance "{sampling.balance}" to null'
            )


def _raised(samples: Sequence[Sample], number: int, *, is_test: bool = False) -> Iterator[Sample]:
    offset = number * SOURCE_STRIDE
    for sample in samples:
        if max(sample.pid, sample.camid) >= SOURCE_STRIDE:
            digits = len(str(SOURCE_STRIDE)) - 1
            raise DataError(
                f"{sample.path}: identity {sample.pid}, camera {sample.camid}: where data sets are joined, these "
                f"numbers have at most {digits} digits"
            )
        is_kept = sample.pid == UNKNOWN_PID or (is_test and sample.pid <= 0)
        pid = sample.pid if is_kept else sample.pid + offset
        yield sample._replace(pid=pid, camid=sample.camid + offset)


def _check_files(joined: Dataset, options: DataOptions) -> None:
    """Check that no training image is also one of another data set, or of another identity."""
    packed = {number for number, path in enumerate(options.data_sets) if is_lmdb(expand_user(path))}
    trained: dict[tuple[int, int], Sample] = {}
    for split, samples in joined._asdict().items():
        for sample in samples:
            if source_of(sample.camid) in packed or (file := _file(sample.path)) is None:
                continue
            known = trained.setdefault(file, sample) if split == "train" else trained.get(file)
            if known is None:
                continue
            is_of_same_set = source_of(known.camid) == source_of(sample.camid)
            if is_of_same_set and (split != "train" or known.pid == sample.pid):
                continue
            raise DataError(
                f"batches_dir{', test_dirs' if options.test_dirs else ''}: the training image {known.path} of "
                f"{_place(known, options)} is the same file as {sample.path} of {_place(sample, options)}; name no "
                "data set inside another, and no image twice"
            )


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever its path; None for one that cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None  # reported when images are checked
    return status.st_dev, status.st_ino


def _place(sample: Sample, options: DataOptions) -> str:
    return f"{options.data_sets[source_of(sample.camid)]}, identity {_own_pid(sample)}"


def _own_pid(sample: Sample) -> int:
    """The identity as its own data set has it."""
    offset = source_of(sample.camid) * SOURCE_STRIDE
    return sample.pid - offset if sample.pid >= offset else sample.pid
