"""The networks that embed the images of an audit: a trained one, the one training starts from, or one for each fold."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from audit.findings import Pool
from audit.judge import View, view_of
from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.params import Params
from data.dataset import read_dataset
from data.label_fixes import fixes_between, holds_fixes, write_fixes
from data.samples import Sample, sorted_camids, sorted_pids
from engine.batches import num_processes
from engine.build import start_network
from engine.commands import began_with
from engine.run import RunFolder, is_run, run_folder, write_params
from engine.trainer import Trainer
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.load_model import load_trained_network
from models.network import Embedder
from utils.checkpoint import is_finished
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError
from utils.randomness import AUDIT, seed_for

logger = logging.getLogger(__name__)

BuildTrainer = Callable[[Params, RunFolder, torch.device, bool], Trainer]
"""As `engine.commands.Task.build`."""


def view_of_checkpoint(path: Path, params: Params, pool: Pool, device: torch.device) -> View:
    """All images by the network in a checkpoint.

    Raises:
        DataError: the file is no checkpoint of a re-ID network.
        ParamsError: the params in it are not valid.
    """
    trained, labels, network, _ = load_trained_network(path)
    (used,) = EvalParams(batches_dir=params.batches_dir, parallels=params.parallels).as_trained(trained)
    return _view(used, Embedder(network, labels), pool, device, params.audit_params.probes)


def view_of_start(params: Params, pool: Pool, device: torch.device) -> View:
    """All images by the network that a training with these params starts from."""
    train = pool.samples[: pool.num_train]
    network = start_network(params, len(sorted_pids(train)), sorted_camids(train))
    return _view(params, Embedder(network), pool, device, params.audit_params.probes)


def folds_of(train: Sequence[Sample], params: Params) -> list[set[int]]:
    """The identities of each of `audit_params.folds` folds; none if there are none.

    Raises:
        ParamsError: there are more folds than identities, or without a fold too few are left to train on.
    """
    pids, number = sorted_pids(train), params.audit_params.folds
    if number > len(pids):
        raise ParamsError(f"audit_params.folds: {number} folds of {len(pids)} identities; use at most {len(pids)}")
    if not number:
        return []
    generator = torch.Generator().manual_seed(seed_for(AUDIT, params.seed))
    parts = torch.randperm(len(pids), generator=generator).tensor_split(number)
    folds = [{pids[place] for place in part.tolist()} for part in parts]
    left, sampling = len(pids) - max(map(len, folds)), params.batch_sampling_params
    needed = num_processes(params) * sampling.P
    if sampling.class_balanced and left < needed and not params.is_unsupervised:
        raise ParamsError(
            f"batch_sampling_params.P: {needed} identities a batch, but without a fold the training set has "
            f"{left}; lower P, or raise audit_params.folds"
        )
    return folds


def views_of_folds(
    folds: Sequence[set[int]], params: Params, pool: Pool, device: torch.device, out: Path, build: BuildTrainer
) -> Iterator[View]:
    """Train a network without the identities of each fold, as a run in the folder `out`, and let it judge these.

    Folds of an interrupted audit are resumed.

    Raises:
        DataError: the folder holds a fold that was trained with other params, images or labels.
    """
    train = pool.samples[: pool.num_train]
    as_read = read_dataset(params.model_copy(update={"label_fixes": ""})).train
    for number, judged in enumerate(folds, start=1):
        folder, corrections = run_folder(str(out), f"fold_{number}"), out / f"fold_{number}.csv"
        # Its own file of corrections leaves them out; an evaluation would only cost time.
        changes = {
            "label_fixes": str(corrections),
            "evaluation_params": EvaluationParams(batch_size=params.evaluation_params.batch_size),
            "working_dir": str(out),
        }
        of_fold = params.model_copy(update=changes)
        with fail_together():
            others = [sample for sample in train if sample.pid not in judged]
            fixes = fixes_between(as_read, others, pool.root)
            if is_run(folder) and not (began_with(folder, of_fold) and holds_fixes(corrections, fixes)):
                text = "was trained with other params, images or labels"
                raise DataError(f"{folder.path}: {text}; name another --out")
            if this_process().is_rank_zero and not is_run(folder):
                write_fixes(corrections, fixes)
                folder.path.mkdir(exist_ok=True)
                write_params(folder, of_fold, "start_train")
        is_trained, resume = broadcast_from_rank0((is_finished(folder.path), folder.last.is_file()))
        if not is_trained:
            logger.info("fold %d of %d: training without its identities in %s", number, len(folds), folder.path)
            trainer = build(of_fold, folder, device, resume)
            if resume:
                trainer.resume()
            trainer.fit()
        view = view_of_checkpoint(folder.best, params, pool, device)
        is_judged = torch.tensor([sample.pid in judged for sample in pool.samples])
        yield view._replace(is_judged=view.is_judged & is_judged)


def _view(params: Params, embedder: Embedder, pool: Pool, device: torch.device, probes: int) -> View:
    embedder.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    features = extract(EvalContext(params, embedder.eval()), pool.samples, "audit").features
    is_judged = torch.arange(len(pool.samples)) < pool.num_train
    return view_of(features, is_judged, device, probes)
