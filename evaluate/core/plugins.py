"""Find, check and run the evaluation plug-in that `evaluation_params.type` names."""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

import evaluate as package
from config.evaluation import EvaluationParams
from config.params import Params
from data.features import TestFeatures
from data.samples import Dataset
from evaluate.core.context import EvalContext
from utils.errors import ParamsError, UserError
from utils.memory import explain_oom

if TYPE_CHECKING:
    # A training makes no report.
    from evaluate.core.report import Report

PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_]*")
COUNT_PREFIX = "num_"


class Plugin(NamedTuple):
    """One file of evaluate/: its name, its function, the class of its keys, and its check of the data."""

    name: str
    run_eval: Callable[[EvalContext], Any]
    options: type[EvaluationParams]
    check_data: Callable[[Dataset, Params], None]


class Evaluation(NamedTuple):
    """The result of a plug-in.

    score: the metric that picks the best model, the higher the better; score_name: its name in `metrics`;
    metrics: finite numbers, fractions unless evaluate.core.table.is_fraction denies it; counts: numbers of things, the
    names begin with "num_"; pictures: (H, W, 3) uint8 each; features: the embeddings; report: a function that makes
    the report. Both are None where the plug-in offers none. of_sets: the evaluation of each of several test sets by
    name, of which all others are made; None of a single one.
    """

    score: float
    score_name: str
    metrics: dict[str, float]
    counts: dict[str, int]
    pictures: dict[str, np.ndarray]
    features: TestFeatures | None = None
    report: "Callable[[], Report] | None" = None
    of_sets: "Mapping[str, Evaluation] | None" = None

    @property
    def reports(self) -> "list[Callable[[], Report]]":
        """The functions that make the reports, one for each test set."""
        return [each.report for each in (self.of_sets or {"": self}).values() if each.report is not None]


def plugin_names() -> list[str]:
    """Names that evaluation_params.type may take, sorted."""
    files = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    return sorted(name for name in files if PLUGIN_NAME.fullmatch(name))


def load_plugin(name: str) -> Plugin:
    """Import the plug-in evaluate/NAME.py.

    Raises:
        ParamsError: there is no such file, or it is no plug-in.
    """
    names = plugin_names()
    # Only names of existing files are imported: no dots, no paths.
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ParamsError(f"no evaluation plug-in {name!r}; {hint}evaluate/ has: {', '.join(names)}")
    module = importlib.import_module(f"{package.__name__}.{name}")
    run_eval = getattr(module, "run_eval", None)
    if not callable(run_eval):
        raise ParamsError(f"evaluate/{name}.py is no plug-in: it has no function run_eval(config)")
    options = getattr(module, "Options", EvaluationParams)
    if not (isinstance(options, type) and issubclass(options, EvaluationParams)):
        raise ParamsError(f"evaluate/{name}.py is no plug-in: its Options does not inherit from EvaluationParams")
    return Plugin(name, run_eval, options, getattr(module, "check_data", _accept))


def plugin_options(name: str) -> type[EvaluationParams]:
    """The class of evaluation_params when its `type` is `name`; raises like `load_plugin`."""
    return load_plugin(name).options


def check_test_data(dataset: Dataset, params: Params) -> None:
    """The check of the data by the plug-in that the params name; of each test set on its own."""
    if params.evaluation_params.type is None:
        return
    plugin = load_plugin(params.evaluation_params.type)
    if len(params.data_sets) == 1:
        plugin.check_data(dataset, params)
        return
    # Only here, as most trainings have one data set.
    from evaluate.core.test_sets import check_each

    check_each(plugin, dataset, params)


def evaluate(context: EvalContext) -> Evaluation:
    """Run the plug-in that the params name on the network or the features of the context, on each test set on its own.

    Raises:
        ParamsError: there is no such plug-in.
        UserError: what the plug-in returned breaks its contract.
        ValueError: the evaluation_params are not of the plug-in's own class.
    """
    params = context.params
    options = params.evaluation_params
    if len(params.data_sets) > 1:
        from evaluate.core.test_sets import evaluate_each

        return evaluate_each(evaluate, context)
    if options.type is None:
        raise ParamsError(f"evaluation_params.type: null, nothing to evaluate; allowed: {', '.join(plugin_names())}")
    plugin = load_plugin(options.type)
    if not isinstance(options, plugin.options):
        raise ValueError(
            f"evaluation_params: {type(options).__name__} given, but {plugin.name} reads "
            f"{plugin.options.__module__}.{plugin.options.__name__}"
        )
    # What a plug-in does by itself; extraction and ranking say more.
    advice = "lower evaluation_params.batch_size, or what the plug-in keeps on the device at once"
    with explain_oom(f"evaluating with evaluate/{plugin.name}.py", advice):
        return normalise_result(plugin.name, plugin.run_eval(context))


def normalise_result(name: str, result: Any) -> Evaluation:
    """Turn the result of plug-in `name` into an Evaluation.

    Raises:
        UserError: the result is neither a number nor a dict as the package's docstring describes it.
    """
    where = f"evaluate/{name}.py: run_eval"
    if not isinstance(result, Mapping):
        score = _metric(where, "score", result)
        return Evaluation(score, "score", {"score": score}, {}, {})
    if not all(isinstance(key, str) for key in result):
        raise UserError(f"{where}: returned names that are no strings: {list(result)}")
    entries = {key: value for key, value in result.items() if key not in ("score", "features", "report")}
    pictures = {key: value for key, value in entries.items() if _is_picture(value)}
    numbers = {key: value for key, value in entries.items() if key not in pictures}
    counts = {key: _count(where, key, value) for key, value in numbers.items() if key.startswith(COUNT_PREFIX)}
    metrics = {key: _metric(where, key, value) for key, value in numbers.items() if key not in counts}
    score_name = _score_name(where, result, metrics)
    features, report = result.get("features"), cast("Callable[[], Report] | None", result.get("report"))
    if not isinstance(features, TestFeatures | None):
        raise UserError(f"{where}: features must be TestFeatures, got {_describe(features)}")
    if report is not None and not callable(report):
        raise UserError(f"{where}: report must be a function without arguments, got {_describe(report)}")
    return Evaluation(metrics[score_name], score_name, metrics, counts, pictures, features, report)


def _accept(dataset: Dataset, config: Params) -> None:
    """The check of a plug-in that has none."""


def _score_name(where: str, result: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    allowed = ", ".join(metrics) or "none, it returned no metric"
    if "score" not in result:
        raise UserError(f'{where}: "score" is missing from the returned dict; let it name one of: {allowed}')
    name = result["score"]
    if not isinstance(name, str) or name not in metrics:
        raise UserError(f'{where}: "score" must name a metric, got {name!r}; allowed: {allowed}')
    return name


def _metric(where: str, key: str, value: Any) -> float:
    number = _as_number(value)
    if number is None:
        raise UserError(f"{where}: {key} must be a number or a uint8 picture (H, W, 3), got {_describe(value)}")
    if not np.isfinite(number):
        raise UserError(f"{where}: {key} must be finite, got {number}")
    return float(number)


def _count(where: str, key: str, value: Any) -> int:
    number = _as_number(value)
    if number is None or not np.isfinite(number) or number != int(number):
        raise UserError(f"{where}: {key} must be a whole number, got {_describe(value)}")
    return int(number)


def _as_number(value: Any) -> int | float | None:
    """The Python number in a number, NumPy scalar or tensor without dimensions; None if it is anything else."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape else f"{type(value).__name__} {value!r}"
