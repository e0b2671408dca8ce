"""Plug-ins: which files count as one, what they may return, and that the documented example works."""

import importlib
import inspect
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import evaluate as package
from config.evaluation import EvaluationParams
from config.params import Params
from data.dataset import read_dataset
from data.features import Features, TestFeatures
from evaluate.core.context import EvalContext
from evaluate.core.plugins import evaluate, load_plugin, normalise_result, plugin_names, plugin_options
from evaluate.core.report import Report
from evaluate.market_evaluate import Options as MarketOptions
from utils.errors import ParamsError, UserError


@pytest.fixture
def plugin_folder(tmp_path, monkeypatch):
    """A folder whose files count as files of evaluate/ for the length of a test."""
    loaded = set(sys.modules)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("evaluate.") and name not in loaded]:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
            delattr(package, name.removeprefix("evaluate."))


def write(folder, name, source):
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    importlib.invalidate_caches()


def params_for(options):
    return EvalContext(Params.model_validate({"evaluation_params": options}), nn.Identity().eval())


def test_every_file_of_evaluate_is_a_plugin():
    files = sorted(path.stem for path in Path(package.__path__[0]).glob("*.py") if path.stem != "__init__")
    assert plugin_names() == files
    for name in files:
        plugin = load_plugin(name)
        assert list(inspect.signature(plugin.run_eval).parameters) == ["config"]
        plugin.options(type=name)
        assert all(field.description for field in plugin.options.model_fields.values())


def test_the_options_of_a_plugin():
    assert plugin_options("market_evaluate") is MarketOptions
    assert MarketOptions.model_validate({"type": "market_evaluate", "rank_list_queries": 0}).batch_size == 128


IMPOSSIBLE = {
    "market_evaluate": [
        {"metric": "manhattan"}, {"ranks": ()}, {"ranks": (0,)}, {"rank_list_length": 0},
        {"spectral": {"top": 1}}, {"k_reciprocal": {"k1": 0}}, {"memory_mb": 0},
    ],
    "lfw_evaluate": [
        {"metric": "manhattan"}, {"num_pairs": 7}, {"num_pairs": 0}, {"num_folds": 0}, {"far": (1.0,)}, {"seed": -1},
    ],
    "classification_evaluate": [{"topk": ()}, {"topk": (0,)}, {"confusion_classes": -1}, {"confusion_classes": 101}],
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_options_are_refused(name):
    for options in IMPOSSIBLE[name]:
        with pytest.raises(ValueError, match=next(iter(options))):
            plugin_options(name).model_validate(options)


@pytest.mark.parametrize(
    "name", ["core", "core.plugins", "__init__", "../train", "market_evaluate.py", "Market_evaluate", "", "os", ".core"]
)
def test_only_names_of_files_in_evaluate_are_accepted(name):
    with pytest.raises(ParamsError, match=r"evaluate/ has: .*market_evaluate"):
        load_plugin(name)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("markt_evaluate", None, "no evaluation plug-in 'markt_evaluate'; did you mean 'market_evaluate'"),
        ("_draft", "def run_eval(config): return 1", "no evaluation plug-in '_draft'"),
        ("empty_evaluate", "RUN = 1", r"evaluate/empty_evaluate\.py is no plug-in: it has no function run_eval"),
        ("odd_evaluate", "class Options: pass\ndef run_eval(config): return 1", "Options does not inherit"),
    ],
)
def test_what_is_no_plugin_is_refused(plugin_folder, name, source, message):
    if source is not None:
        write(plugin_folder, name, source)
    with pytest.raises(ParamsError, match=message):
        load_plugin(name)


def test_a_plugin_without_options_takes_the_shared_keys_only(plugin_folder):
    write(plugin_folder, "constant_evaluate", "def run_eval(config): return 0.25")
    options = plugin_options("constant_evaluate")
    assert options is EvaluationParams
    with pytest.raises(ValueError, match="threshold"):
        options.model_validate({"type": "constant_evaluate", "threshold": 3})
    evaluation = evaluate(params_for(options(type="constant_evaluate")))
    assert (evaluation.score, evaluation.score_name, evaluation.metrics) == (0.25, "score", {"score": 0.25})


def test_the_documented_example_works(plugin_folder, market_folder):
    lines = inspect.cleandoc(package.__doc__ or "").split("\n")
    start, end = (next(n for n, line in enumerate(lines) if mark in line) for mark in ('"""Share of', "return {"))
    write(plugin_folder, "neighbour_evaluate", "\n".join(lines[start : end + 1]))
    options = plugin_options("neighbour_evaluate").model_validate({"type": "neighbour_evaluate", "max_images": 3})
    greys = {"0001_c1_0.png": 250, "0001_c2_0.png": 240, "0002_c1_0.png": 10, "0003_c1_0.png": 0}
    folder = market_folder({}, {name: (grey, grey, grey) for name, grey in greys.items()})
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    keys = {"batches_dir": str(folder), "img_h": 32, "img_w": 16, "evaluation_params": options}
    evaluation = evaluate(EvalContext(Params.model_validate(keys), net))
    assert evaluation.metrics == {"nearest": pytest.approx(2 / 3)}
    assert evaluation.counts == {"num_gallery": 3}


def test_keys_may_be_changed_and_reports_are_made_as_documented(plugin_folder, market_folder):
    write(
        plugin_folder,
        "first_evaluate",
        """
        import dataclasses

        from data.dataset import read_dataset
        from evaluate.core.extract import extract
        from evaluate.core.report import Note, Report, Section


        def run_eval(config):
            small = config.model_copy(update={"img_h": 16})
            samples = read_dataset(small).gallery
            found = extract(small, samples, "gallery").features
            same = extract(dataclasses.replace(config, params=small.params), samples, "gallery").features
            report = Report("title", "subtitle", (Section("first", "text", (Note("text"),)),))
            heights = {"height": config.img_h, "small_height": small.img_h, "same": float(found.equal(same))}
            return {**heights, "score": "height", "report": lambda: report}


        def check_data(dataset, config):
            config.model_validate(config.model_dump())
        """,
    )
    folder = market_folder({}, {"0001_c1_0.png": (9, 9, 9)})
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    keys = {"batches_dir": str(folder), "img_h": 32, "img_w": 16, "evaluation_params": {"type": "first_evaluate"}}
    params = Params.model_validate(keys)
    load_plugin("first_evaluate").check_data(read_dataset(params), params)
    evaluation = evaluate(EvalContext(params, net))
    assert evaluation.metrics == {"height": 32, "small_height": 16, "same": 1}
    assert evaluation.report is not None
    assert evaluation.report().title == "title"


def test_nothing_to_evaluate_and_options_of_another_plugin_are_refused():
    with pytest.raises(ParamsError, match="null, nothing to evaluate"):
        evaluate(params_for(EvaluationParams()))
    with pytest.raises(ValueError, match=r"market_evaluate reads evaluate\.market_evaluate\.Options"):
        evaluate(params_for(EvaluationParams(type="market_evaluate")))


@pytest.mark.parametrize("number", [1, 1.0, np.float32(1), np.int64(1), np.array(1.0), torch.tensor(1.0)])
def test_numbers_of_every_kind_become_floats(number):
    alone = normalise_result("x", number)
    assert (alone.score, alone.metrics) == (1.0, {"score": 1.0})
    named = normalise_result("x", {"accuracy": number, "num_images": number, "score": "accuracy"})
    assert type(named.score) is type(named.metrics["accuracy"]) is float
    assert type(named.counts["num_images"]) is int


def test_a_dict_is_sorted_into_metrics_counts_pictures_embeddings_and_a_report():
    labels = torch.ones(2, dtype=torch.int64)
    features = TestFeatures(*[Features(torch.ones(2, 3), labels, labels, [])] * 2)
    picture, report = np.zeros((4, 5, 3), dtype=np.uint8), lambda: Report("title", "subtitle", ())
    numbers = {"score": "b", "a": 0.1, "b": 0.2, "num_query": 7}
    found = normalise_result("x", {**numbers, "list": picture, "features": features, "report": report})
    assert (found.score, found.score_name, found.metrics) == (0.2, "b", {"a": 0.1, "b": 0.2})
    assert (found.counts, list(found.pictures)) == ({"num_query": 7}, ["list"])
    assert (found.features, found.report) == (features, report)
    alone = normalise_result("x", 0.5)
    assert (alone.features, alone.report) == (None, None)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"mAP": 1.0, "score": "mAP", "features": torch.ones(2)}, "features must be TestFeatures, got Tensor"),
        ({"mAP": 1.0, "score": "mAP", "report": "text"}, "report must be a function without arguments, got str"),
        (None, "score must be a number"),
        (True, "score must be a number"),
        (float("nan"), "score must be finite, got nan"),
        ({"mAP": 0.5}, '"score" is missing from the returned dict; let it name one of: mAP'),
        ({"mAP": 0.5, "score": "map"}, "\"score\" must name a metric, got 'map'; allowed: mAP"),
        ({"mAP": 0.5, "score": 0.5}, '"score" must name a metric, got 0.5'),
        ({"num_query": 5, "score": "num_query"}, "returned no metric"),
        ({"num_query": 5.5, "score": "mAP", "mAP": 1.0}, "num_query must be a whole number"),
        ({"mAP": torch.zeros(2), "score": "mAP"}, r"mAP must be a number .* got Tensor of shape \(2,\)"),
        ({"mAP": "good", "score": "mAP"}, "mAP must be a number .* got str 'good'"),
        ({"mAP": float("inf"), "score": "mAP"}, "mAP must be finite"),
        ({"a": np.zeros((4, 5, 3)), "b": 1.0, "score": "b"}, "a must be a number or a uint8 picture"),
        ({3: 1.0, "score": 3}, "names that are no strings"),
    ],
)
def test_a_broken_contract_is_an_error_naming_the_plugin(result, message):
    with pytest.raises(UserError, match=rf"evaluate/broken_evaluate\.py: run_eval: .*{message}"):
        normalise_result("broken_evaluate", result)
