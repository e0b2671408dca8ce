"""What offline evaluation changes of how a network was trained."""

from typing import get_args

import pytest

from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.load import load_eval_params
from config.sections import allowed_values
from data.options import DataOptions


def test_by_default_everything_is_as_trained(desk):
    trained = desk.load({"batches_dir": "market", "evaluation_params": {"type": "market_evaluate"}}).params
    assert desk.load_eval({}).params.as_trained(trained) == trained


def test_the_device_is_the_evaluator_s_own(desk):
    trained = desk.load({"parallels": [3]}).params
    assert EvalParams().as_trained(trained).parallels == ()
    assert EvalParams(parallels=(1,)).as_trained(trained).parallels == (1,)


def test_data_and_plugin_can_be_replaced(desk):
    trained = desk.load({"evaluation_params": {"type": "market_evaluate", "rerank": True}}).params
    content = {"batches_dir": "duke", "data_layout": "market", "evaluation_params": {"type": "market_evaluate"}}
    changed = desk.load_eval(content).params.as_trained(trained)
    assert (changed.batches_dir, changed.data_layout) == ("duke", "market")
    # The plug-in is the one trained with, so what is not said here stays as it was.
    assert changed.evaluation_params.rerank is True


def test_another_plugin_brings_its_own_options(desk):
    trained = desk.load({"evaluation_params": {"type": None, "batch_size": 7}}).params
    content = {"evaluation_params": {"type": "market_evaluate", "rerank": True}}
    changed = desk.load_eval(content).params.as_trained(trained)
    assert changed.evaluation_params.rerank is True
    assert changed.evaluation_params.batch_size == 128


def test_without_a_type_the_trained_plugin_stays(desk):
    trained = desk.load({"evaluation_params": {"type": "market_evaluate", "rerank": True, "every_epochs": 5}}).params
    changed = desk.load_eval({"evaluation_params": {"batch_size": 3, "type": None}}).params.as_trained(trained)
    assert changed.evaluation_params == trained.evaluation_params.model_copy(update={"batch_size": 3})


def test_trained_params_are_not_changed(desk):
    trained = desk.load({}).params
    EvalParams(batches_dir="x", evaluation_params=EvaluationParams(batch_size=3)).as_trained(trained)
    assert trained == desk.load({}).params


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"epoch": 3}, "epoch: unknown key"),
        ({"model_pth": "x"}, "model_pth: unknown key; did you mean 'model_path'?"),
        ({"data_layout": "duke"}, 'data_layout: unknown value "duke". Allowed: "auto", "market", "folders"'),
        ({"evaluation_params": 3}, "evaluation_params: expected an object, got 3"),
        ({"parallels": [0, 1]}, "parallels: evaluating on several devices is not available yet; give one index"),
    ],
)
def test_mistakes(desk, content, line):
    assert desk.mistakes(content, loader=load_eval_params) == [f"params.json: {line}"]


def test_layouts_are_those_of_training():
    ours = allowed_values(EvalParams.model_fields["data_layout"].annotation)
    assert ours == get_args(DataOptions.model_fields["data_layout"].annotation)
