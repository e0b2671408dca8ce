"""Evaluation on several data sets, one after the other: a query is never compared with the gallery of another."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from config.params import Params
from data.samples import Dataset
from data.sources import part
from evaluate.core.context import EvalContext
from evaluate.core.plugins import Evaluation, Plugin

T = TypeVar("T")

logger = logging.getLogger(__name__)


def params_of_test_sets(params: Params) -> dict[str, Params]:
    """The params of the evaluation on each of `params.test_sets`, by name.

    A plug-in that measures data of its own, whatever `batches_dir` is, gets only one.
    """
    found: dict[str, Params] = {}
    for path in params.test_sets:
        own, options = params.with_data(path), params.evaluation_params
        if path not in params.sources and options.same_cameras is None:
            own = own.model_copy(update={"evaluation_params": options.model_copy(update={"same_cameras": False})})
        found.setdefault(options.data_set(path), own)
    return {params.data_names.get(name, name): own for name, own in found.items()}


def check_each(plugin: Plugin, dataset: Dataset, params: Params) -> None:
    """The plug-in's check of every test set in the joined `dataset`."""
    for own in params_of_test_sets(params).values():
        plugin.check_data(part(dataset, params.data_sets.index(own.sources[0])), own)


def evaluate_each(run: Callable[[EvalContext], Evaluation], context: EvalContext) -> Evaluation:
    """Run the evaluation on every test set, and put the results together.

    Returns:
        The metrics of each set as NAME/METRIC, and under the metric's own name the mean over the sets. The score is
        that of the set that `evaluation_params.score_of` names, or the mean.
    """
    params = context.params
    evaluations: dict[str, Evaluation] = {}
    for name, own in params_of_test_sets(params).items():
        path = own.sources[0]
        logger.info("test set %s", name)
        # A data set that is not trained on has cameras of its own, or, if told so, those of the only one that is.
        number = params.sources.index(path) if path in params.sources else 0
        evaluations[name] = run(replace(context, params=own, source=number))
    if len(evaluations) == 1:
        return next(iter(evaluations.values()))
    first, *others = evaluations.values()
    shared = [name for name in first.metrics if all(name in each.metrics for each in others)]
    means = {name: fmean(each.metrics[name] for each in evaluations.values()) for name in shared}
    score_of = params.evaluation_params.score_of
    score_name = f"{score_of}/{evaluations[score_of].score_name}" if score_of else first.score_name
    metrics = means | _named((name, each.metrics) for name, each in evaluations.items())
    return Evaluation(
        score=metrics[score_name],
        score_name=score_name,
        metrics=metrics,
        counts=_named((name, each.counts) for name, each in evaluations.items()),
        pictures=_named((name, each.pictures) for name, each in evaluations.items()),
        of_sets=evaluations,
    )


def _named(parts: Iterable[tuple[str, dict[str, T]]]) -> dict[str, T]:
    return {f"{name}/{key}": value for name, values in parts for key, value in values.items()}
