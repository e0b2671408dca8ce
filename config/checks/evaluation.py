"""Offline evaluation."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict, twice_named
from config.eval_params import EvalParams


def devices_differ(params: EvalParams) -> Iterator[Conflict]:
    """As for training."""
    yield from twice_named(params.parallels)


def data_sets_are_named_once(params: EvalParams) -> Iterator[Conflict]:
    """One way to name the data, and one file for the embeddings of each set."""
    if params.data_dirs and params.batches_dir is not None:
        yield Conflict(("data_dirs", "batches_dir"), "names data sets, as batches_dir does; leave one of them out")
    if len(set(params.data_dirs)) < len(params.data_dirs):
        yield Conflict(("data_dirs",), "names a data set more than once")
    if len(params.data_dirs) > 1 and params.features_path:
        text = "holds the embeddings of one data set, but data_dirs names several"
        yield Conflict(("features_path", "data_dirs"), text)


CHECKS: tuple[Check[EvalParams], ...] = (devices_differ, data_sets_are_named_once)
