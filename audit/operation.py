"""The operation audit_data: from params to a page, audit.json and fixes.csv."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from audit.embedding import BuildTrainer, folds_of, view_of_checkpoint, view_of_start, views_of_folds
from audit.findings import Findings, Pool, as_json, largest_pid, pool_of, suggest_fixes
from audit.judge import View, judge
from audit.page import audit_report
from audit.pixels import read_pixels
from config.params import Params
from data.dataset import read_dataset, summary_table, without_bad_images
from data.label_fixes import Fix, write_fixes
from data.samples import UNKNOWN_PID, Sample
from engine.commands import process_group_for
from evaluate.core.report import write_report
from utils.distributed import fail_together, this_process
from utils.errors import DataError, ParamsError, with_advice
from utils.files import write_json

logger = logging.getLogger(__name__)

PAGE, FINDINGS, FIXES = "audit.html", "audit.json", "fixes.csv"


def audit_data(params: Params, notes: Sequence[str], checkpoint: Path | None, out: Path, build: BuildTrainer) -> None:
    """Audit the training set that the params name, and write what was found to the folder `out`.

    Args:
        params: name the data set, and the network where none is given.
        notes: on the params.
        checkpoint: of the network that embeds the images; None = that with which a training starts, or those of folds.
        out: the folder; it must not exist, or be empty.
        build: trainer of a fold.

    Raises:
        DataError: the data set has no labelled training images, or the checkpoint no re-ID network.
        ParamsError: there is no network to embed with, or there are two; or folds that cannot be trained without.
    """
    with process_group_for(params) as device:
        for note in notes:
            logger.info("%s", note)
        _check(params, checkpoint, out)
        as_read = read_dataset(params)
        dataset = without_bad_images(as_read, params)
        logger.info("data set %s\n%s", params.batches_dir, summary_table(dataset))
        _check_labels(dataset.train, params)
        folds = folds_of(dataset.train, params)
        pool = pool_of(dataset, params, largest_pid(as_read))
        pixels = read_pixels([sample.path for sample in pool.samples])
        with fail_together():
            if this_process().is_rank_zero:
                _make_folder(out)
        views: Iterable[View]
        if folds:
            views = views_of_folds(folds, params, pool, device, out, build)
        elif checkpoint is not None:
            views = (view_of_checkpoint(checkpoint, params, pool, device),)
        else:
            views = (view_of_start(params, pool, device),)
        if this_process().is_rank_zero:
            found = judge(pool, pixels, views, params.audit_params.near_duplicate, params.seed)
            _write(params, checkpoint, pool, found, out)
        else:
            # All processes make the views, which takes nearly all the time.
            for _ in views:
                pass


def _check(params: Params, checkpoint: Path | None, out: Path) -> None:
    if not isinstance(params.batches_dir, str):
        raise ParamsError("batches_dir: audit_data judges one data set at a time; name one of them")
    if checkpoint is not None and params.audit_params.folds:
        raise ParamsError(
            "audit_params.folds: trains networks of its own, and --from names another; leave one of them out"
        )
    if checkpoint is not None and not checkpoint.is_file():
        raise DataError(f"--from {checkpoint}: no such file; name a checkpoint, such as runs/NAME/model_best.pth")
    held = [*out.iterdir()] if out.is_dir() else [out] if out.exists() else []
    # The folds of an interrupted audit go on.
    if not all(params.audit_params.folds and path.name.startswith("fold_") for path in held):
        raise DataError(f"--out {out}: already exists and is not empty; name another folder")
    if not (checkpoint or params.audit_params.folds or params.imagenet_pretrain or params.pretrain_snapshot):
        raise ParamsError(
            "audit_data compares embeddings, and a network of random weights has none worth comparing; name a trained "
            "one with --from CHECKPOINT, set imagenet_pretrain or pretrain_snapshot, or audit_params.folds to 2"
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made: {with_advice(error)}") from error


def _check_labels(train: Sequence[Sample], params: Params) -> None:
    """Check that there are labels to judge."""
    numbers = Counter(sample.pid for sample in train)
    if not train:
        raise DataError(f"{params.batches_dir}: no training images to audit")
    if train[0].pid == UNKNOWN_PID:
        raise DataError(f"{params.batches_dir}: its images have no labels; an audit compares them with their labels")
    if len(numbers) < 2:
        raise DataError(
            f"{params.batches_dir}: all {len(train)} training images have the same identity, {train[0].pid}; "
            "there is none to compare it with"
        )
    if max(numbers.values()) < 2:
        raise DataError(
            f"{params.batches_dir}: each of {len(train)} training images has an identity of its own; an audit needs "
            "labels to compare"
        )


def _write(params: Params, checkpoint: Path | None, pool: Pool, found: Findings, out: Path) -> None:
    options = params.audit_params
    fixes = suggest_fixes(pool, found, options.min_score, options.near_duplicate)
    network = f"{options.folds} folds of {params.model_params.model}" if options.folds else str(checkpoint or "")
    network = network or f"{params.model_params.model} as training starts"
    write_fixes(out / FIXES, fixes)
    about = {"data_set": params.data_name, "network": network, "num_images": len(pool.samples)}
    write_json(out / FINDINGS, {**about, **as_json(pool, found, fixes)})
    write_report(out / PAGE, [audit_report(params, network, pool, found, fixes)])
    logger.info("%s", _summary(found, fixes, options.min_score))
    if doubt := found.doubt(options, pool.num_train):
        logger.warning("%s", doubt)
    logger.info("written: %s, %s and %s in %s", PAGE, FINDINGS, FIXES, out)
    if params.label_fixes:
        logger.info("%s corrects the labels that label_fixes leaves: name both, the new file last", FIXES)


def _summary(found: Findings, fixes: Sequence[Fix], least: float) -> str:
    actions = Counter(fix.action for fix in fixes)
    lines = ", ".join(f"{number} {action}" for action, number in sorted(actions.items())) or "none"
    return (
        f"found with a score of at least {least}: {len(found.swapped(least))} wrong labels, "
        f"{sum(split.probability >= least for split in found.splits)} identities of two persons, "
        f"{sum(merge.probability >= least for merge in found.merges)} pairs of identities of one person, "
        f"{len(found.copies)} groups of copies, {len(found.crops)} poor crops, "
        f"{sum(bool(camera.remark) for camera in found.cameras)} odd cameras; corrections: {lines}"
    )
