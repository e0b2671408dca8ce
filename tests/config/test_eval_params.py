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
    assert desk.load_eval({}).params.as_trained(trained) == (trained,)


def test_the_device_is_the_evaluator_s_own(desk):
    trained = desk.load({"parallels": [3]}).params
    for given in ((), (1,)):
        (changed,) = EvalParams(parallels=given).as_trained(trained)
        assert changed.parallels == given


def test_data_and_plugin_can_be_replaced(desk):
    trained = desk.load({"evaluation_params": {"type": "market_evaluate", "rerank": True}}).params
    content = {"batches_dir": "duke", "data_layout": "market", "evaluation_params": {"type": "market_evaluate"}}
    (changed,) = desk.load_eval(content).params.as_trained(trained)
    assert (changed.batches_dir, changed.data_layout) == ("duke", "market")
    # The plug-in is the one trained with, so what is not said here stays as it was.
    assert changed.evaluation_params.rerank is True


def test_another_data_set_is_looked_at_anew(desk):
    content = {"data_layout": "vehicleid", "test_list": "test_list_800.txt", "label_fixes": "fixes.csv"}
    trained = desk.load(content).params
    (same,) = desk.load_eval({"parallels": [0]}).params.as_trained(trained)
    assert (same.data_layout, same.test_list, same.label_fixes) == ("vehicleid", "test_list_800.txt", "fixes.csv")
    (other,) = desk.load_eval({"batches_dir": "duke"}).params.as_trained(trained)
    assert (other.data_layout, other.test_list, other.label_fixes) == ("auto", "", "")
    content = {"data_dirs": ["a", "b"], "data_layout": "vehicleid", "test_list": "test_list_1600.txt"}
    several = desk.load_eval(content).params.as_trained(trained)
    assert [params.batches_dir for params in several] == ["a", "b"]
    assert {(params.data_layout, params.test_list) for params in several} == {("vehicleid", "test_list_1600.txt")}


def test_another_data_set_has_cameras_of_its_own_unless_it_is_said(desk):
    model = {"model": "timm:test_vit", "camera_embedding": 3}
    trained = desk.load({"batches_dir": "market", "model_params": model}).params

    def same_cameras(content):
        return [params.evaluation_params.same_cameras for params in desk.load_eval(content).params.as_trained(trained)]

    assert same_cameras({"batches_dir": "market"}) == [None]
    assert same_cameras({"data_dirs": ["market", "duke"]}) == [None, False]
    assert same_cameras({"batches_dir": "moved", "evaluation_params": {"same_cameras": True}}) == [True]
    assert same_cameras({"evaluation_params": {"same_cameras": False}}) == [False]


def test_sections_of_a_plugin_are_changed_key_by_key(desk):
    trained = desk.load({"evaluation_params": {"type": "market_evaluate", "neighbours": {"k1": 9, "k2": 3}}}).params
    content = {"evaluation_params": {"type": "market_evaluate", "neighbours": {"k2": 4}}}
    (changed,) = desk.load_eval(content).params.as_trained(trained)
    assert changed.evaluation_params.neighbours.model_dump() == {"k1": 9, "k2": 4}


def test_another_plugin_brings_its_own_options(desk):
    trained = desk.load({"evaluation_params": {"type": None, "batch_size": 7}}).params
    content = {"evaluation_params": {"type": "market_evaluate", "rerank": True}}
    (changed,) = desk.load_eval(content).params.as_trained(trained)
    assert changed.evaluation_params.rerank is True
    assert changed.evaluation_params.batch_size == 128


def test_without_a_type_the_trained_plugin_stays(desk):
    trained = desk.load({"evaluation_params": {"type": "market_evaluate", "rerank": True, "every_epochs": 5}}).params
    (changed,) = desk.load_eval({"evaluation_params": {"batch_size": 3, "type": None}}).params.as_trained(trained)
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
        ({"data_layout": "duke"}, 'data_layout: unknown value "duke". Allowed: "auto", "market", '),
        ({"evaluation_params": 3}, "evaluation_params: expected an object, got 3"),
        ({"data_dirs": ["a"], "batches_dir": "b"}, "data_dirs: names data sets, as batches_dir does"),
        ({"data_dirs": ["a", "a"]}, "data_dirs: names a data set more than once"),
        ({"data_dirs": ["a", "b"], "features_path": "f"}, "features_path: holds the embeddings of one data set"),
        ({"parallels": [1, 1]}, "parallels: names a GPU twice"),
    ],
)
def test_mistakes(desk, content, line):
    (found,) = desk.mistakes(content, loader=load_eval_params)
    assert found.startswith(f"params.json: {line}")


def test_layouts_are_those_of_training():
    ours = allowed_values(EvalParams.model_fields["data_layout"].annotation)
    assert ours == get_args(DataOptions.model_fields["data_layout"].annotation)


def test_a_network_of_several_data_sets_is_evaluated_on_each_as_in_training(desk):
    trained = desk.load({"batches_dir": ["market", "duke"], "test_dirs": ["duke", "msmt"]}).params

    def evaluated(content):
        every = desk.load_eval(content).params.as_trained(trained)
        return [(params.batches_dir, params.test_dirs, params.evaluation_params.same_cameras) for params in every]

    assert evaluated({}) == [("duke", (), None), ("msmt", (), False)]
    assert evaluated({"batches_dir": ["market", "other"]}) == [("market", (), None), ("other", (), False)]
    assert evaluated({"batches_dir": "other"}) == [("other", (), False)]
