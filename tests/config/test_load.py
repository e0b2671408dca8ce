"""Merging, overriding and validating; every mistake in one message."""

import sys

import pytest

from config.evaluation import EvaluationParams
from config.load import params_from_dict
from config.params import LearningRate, Params
from utils.errors import ParamsError

MODELS = (
    '"resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152", "osnet_x1_0", "osnet_x0_75", "osnet_x0_5", '
    '"osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25", '
    'or "timm:NAME" for a network of timm'
)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"lr": {"bas_lr": 1}}, "lr.bas_lr: unknown key; did you mean 'base_lr'?"),
        ({"base_lr": 1}, "base_lr: unknown key; did you mean 'lr.base_lr'?"),
        ({"pcb_part": 1}, "pcb_part: unknown key; did you mean 'model_params.pcb_n_parts'?"),
        ({"lr": {"img_h": 1}}, "lr.img_h: unknown key; did you mean 'img_h' at the top level?"),
        ({"IMG_H": 1}, "IMG_H: unknown key; did you mean 'img_h'?"),
        ({"xyz": {"a": 1}}, "xyz: unknown key"),
        ({"x\ny": 1}, r'"x\ny": unknown key'),
        ({"img_h": "12"}, 'img_h: expected a whole number, got "12"'),
        ({"img_h": 12.5}, "img_h: expected a whole number, got 12.5"),
        ({"img_h": True}, "img_h: expected a whole number, got true"),
        ({"img_h": 15}, "img_h: expected a number of at least 16, got 15"),
        ({"weight_decay": "0"}, 'weight_decay: expected a number, got "0"'),
        ({"momentum": 1}, "momentum: expected a number below 1, got 1"),
        ({"lr": {"decay_gamma": 0}}, "lr.decay_gamma: expected a number above 0, got 0"),
        ({"lr": {"decay_gamma": 1.5}}, "lr.decay_gamma: expected a number of at most 1, got 1.5"),
        ({"fine_tune": 1}, "fine_tune: expected true or false, got 1"),
        ({"working_dir": 7}, "working_dir: expected a text in double quotes, got 7"),
        ({"working_dir": None}, "working_dir: expected a text in double quotes, got null"),
        ({"parallels": 0}, "parallels: expected a list, got 0"),
        ({"parallels": [0, "a"]}, 'parallels[1]: expected a whole number, got "a"'),
        ({"lr": 3}, "lr: expected an object, got 3"),
        ({"img_h": {"a": 1}}, "img_h: expected a whole number, got an object"),
        ({"tri_loss_on": "parts"}, 'tri_loss_on: expected a list, got "parts"; did you mean ["parts"]?'),
        ({"tri_loss_on": []}, "tri_loss_on: expected at least one entry, got []"),
        ({"tri_loss_on": ["part"]}, 'tri_loss_on[0]: unknown value "part"; did you mean "parts"? Allowed: "global", '
         '"parts", "concat", "global2", "parts2", "concat2", "global3", "parts3", "concat3", "drop", "channels", '
         '"projected", "penultimate"'),
        ({"model_params": {"model": "resnet_51"}},
         f'model_params.model: unknown value "resnet_51"; did you mean "resnet_50"? Allowed: {MODELS}'),
        ({"model_params": {"model": "xyz"}}, f'model_params.model: unknown value "xyz". Allowed: {MODELS}'),
        ({"model_params": {"model": "resnet50.a1_in1k"}}, 'model_params.model: unknown value "resnet50.a1_in1k"; '
         f'did you mean "timm:resnet50.a1_in1k"? Allowed: {MODELS}'),
        ({"model_params": {"model": "timm:mobilnetv2_100"}}, 'model_params.model: unknown value "timm:mobilnetv2_100"; '
         'did you mean "timm:mobilenetv2_100" or "timm:mobilevitv2_100" or "timm:mobilenetv2_140"? '
         f"Allowed: {MODELS}"),
        ({"model_params": {"model": "timm:hf-hub:a/b"}},
         f'model_params.model: unknown value "timm:hf-hub:a/b". Allowed: {MODELS}'),
        ({"model_params": {"last_conv_stride": 3}}, "model_params.last_conv_stride: expected 1 or 2, got 3"),
        ({"tri_loss_margin": [1]}, 'tri_loss_margin: expected a number or "soft_margin", got [1]'),
        ({"tri_loss_margin": "softmargin"},
         'tri_loss_margin: expected a number or "soft_margin", got "softmargin"; did you mean "soft_margin"?'),
        ({"tri_loss_margin": -1}, 'tri_loss_margin: expected a number of at least 0 or "soft_margin", got -1'),
        ({"lr": {"decay_step": "3"}}, 'lr.decay_step: expected a whole number or a list, got "3"'),
        ({"lr": {"decay_step": [0]}}, "lr.decay_step[0]: expected a number of at least 1, got 0"),
        ({"lr": {"decay_step": -1}}, "lr.decay_step: expected a number of at least 0 or a list, got -1"),
        ({"synthetic": {"train_identities": 9000, "test_identities": 9000}},
         "synthetic: train_identities + test_identities is 18000; file names have room for 9999 persons"),
        ({"evaluation_params": "market_evaluate"}, 'evaluation_params: expected an object, got "market_evaluate"'),
        ({"evaluation_params": None}, "evaluation_params: expected an object, got null"),
        ({"evaluation_params": {"type": 3}}, "evaluation_params.type: expected a text in double quotes, got 3"),
        ({"evaluation_params": {"type": "market"}},
         "evaluation_params.type: no plug-in 'market'; did you mean 'market_evaluate'?"),
        ({"evaluation_params": {"rerank": True}}, "evaluation_params.rerank: unknown key; only a plug-in has further "
         "keys; name it, too, as evaluation_params.type"),
        ({"evaluation_params": {"type": "market_evaluate", "rerun": True}},
         "evaluation_params.rerun: unknown key; did you mean 'rerank'?"),
        ({"evaluation_params": {"type": "market_evaluate", "ranks": [1, "2"]}},
         'evaluation_params.ranks[1]: expected a whole number, got "2"'),
        ({"evaluation_params": {"type": "market_evaluate", "distance": ""}},
         'evaluation_params.distance: expected a text of length 1 or more, got ""'),
        ({"$schema": 3}, "$schema: expected a text in double quotes, got 3"),
        ({"extends": 3}, "extends: expected the name of a params file, got 3"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(desk, content, line):
    assert desk.mistakes(content) == [f"params.json: {line}"]


def test_every_mistake_of_every_source_is_listed(desk):
    desk.write({"img_h": "tall", "epoch": 0, "$schema": "x"}, "base.json")
    content = {"extends": "base.json", "epoch": 5, "lr": {"bas_lr": 1}, "evaluation_params": {"type": "market"}}
    assert desk.mistakes(content, "img_w=1.5", "nonsense", "a..b=1", "lr.fc_lr=fast", "momentum=NaN") == [
        "params.json: 8 mistakes",
        "params.json: evaluation_params.type: no plug-in 'market'; did you mean 'market_evaluate'?",
        "params.json: lr.bas_lr: unknown key; did you mean 'base_lr'?",
        'base.json: img_h: expected a whole number, got "tall"',
        '--set: expected key=value such as lr.base_lr=0.02, got "nonsense"',
        '--set: expected key=value such as lr.base_lr=0.02, got "a..b=1"',
        "--set: img_w: expected a whole number, got 1.5",
        "--set: momentum: expected a finite number, got NaN",
        '--set: lr.fc_lr: expected a number, got "fast"',
    ]


def test_files_extend_files_and_later_ones_win(desk):
    desk.write({"epoch": 1, "lr": {"base_lr": 0.1, "fc_lr": 0.1, "decay_step": [1, 2]}, "seed": 1}, "a.json")
    desk.write({"extends": "../a.json", "lr": {"fc_lr": 0.2, "decay_step": [3]}, "seed": 2}, "recipes/b.json")
    params, notes = desk.load({"extends": "recipes/b.json", "seed": 3})
    assert (params.epoch, params.seed, params.lr.base_lr, params.lr.fc_lr) == (1, 3, 0.1, 0.2)
    assert params.lr.decay_step == (3,)
    assert notes == ()


def test_files_that_extend_each_other_are_named(desk):
    desk.write({"extends": "b.json"}, "a.json")
    desk.write({"extends": "params.json"}, "b.json")
    chain = "params.json -> a.json -> b.json -> params.json"
    assert desk.mistakes({"extends": "a.json"}) == [
        f"b.json: extends: the files extend each other in a circle: {chain}"
    ]


def test_a_missing_base_hides_no_other_mistake_and_invents_none(desk):
    content = {"extends": "no.json", "tri_loss_margin": 0.3, "evaluation_params": {"rerank": True}, "epoch": 0}
    assert desk.mistakes(content) == [
        "params.json: 2 mistakes",
        "params.json: epoch: expected a number of at least 1, got 0",
        "no.json: no such file (params.json extends it)",
    ]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("lr.base_lr=0.5", "lr.base_lr", 0.5),
        ("working_dir=some/where=here", "working_dir", "some/where=here"),
        ('working_dir="7"', "working_dir", "7"),
        ("pretrain_snapshot=", "pretrain_snapshot", ""),
        ("batch_size=null", "batch_size", None),
        ("lr.decay_step=[3, 6]", "lr.decay_step", (3, 6)),
        ('lr={"base_lr": 0.5}', "lr.base_lr", 0.5),
        ('lr={"base_lr": 0.5}', "lr.fc_lr", 0.3),
        ("tri_loss_margin=0", "tri_loss_margin", 0.0),
        ("evaluation_params.every_epochs=3", "evaluation_params.every_epochs", 3),
    ],
)
def test_overrides_win_over_the_file(desk, override, key, value):
    found = desk.load({"lr": {"base_lr": 0.1, "fc_lr": 0.3}, "batch_size": 8, "working_dir": "w"}, override).params
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_last_override_wins_even_over_a_wrong_value(desk):
    assert desk.load({"epoch": "many"}, "epoch=3", "epoch=4").params.epoch == 4


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["asoftmax_params.margin=0.2", "asoftmax_params.scale=15"], {"softmax_margin": 0.2}),
        (["softmax_only=true", "tri_loss_params.margin=0.3"], {"tri_loss_margin": 0}),
        (["epochs=3", "epoch=3"], {"epoch": 3}),
    ],
)
def test_overrides_are_translated_together_in_any_order(desk, overrides, expected):
    for order in (overrides, overrides[::-1]):
        params = desk.load({"epoch": 9}, *order).params
        assert {name: getattr(params, name) for name in expected} == expected


def test_two_spellings_in_overrides_are_a_mistake(desk):
    for order in (["epochs=3", "epoch=4"], ["epoch=4", "epochs=3"]):
        (line,) = desk.mistakes({}, *order)
        assert line.startswith("--set: epochs: 'epoch' is given as well")


def test_overrides_name_a_plugin_and_its_options_in_any_order(desk):
    overrides = ["evaluation_params.rerank=true", "evaluation_params.type=market_evaluate"]
    for order in (overrides, overrides[::-1]):
        params, notes = desk.load({"evaluation_params": {"type": "other", "pairs": 3}}, *order)
        assert params.evaluation_params.rerank is True
        assert [note.split("'")[1] for note in notes] == ["evaluation_params.pairs"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("lrr.base_lr=0.1", "lrr: unknown key"),
        ("lr.base.rate=0.1", "lr.base: unknown key"),
        ("img_h.x=3", "img_h: expected a whole number, got an object"),
        ("lr.base_lr.x=3", "lr.base_lr: expected a number, got an object"),
    ],
)
def test_a_section_that_an_override_invents_is_its_mistake(desk, override, line):
    (found,) = desk.mistakes({"img_h": 256, "lr": {"base_lr": 0.1}}, override)
    assert found.startswith(f"--set: {line}")


@pytest.mark.parametrize("override", ["epoch=" + "[" * 100_000, "epoch", "=3", "", "lr.=3"])
def test_malformed_overrides_are_mistakes(desk, override):
    (line,) = desk.mistakes({}, override)
    assert line.startswith("--set: ")


def test_evaluation_params_are_of_the_plugin_s_class(desk, plugin_options):
    raw = {"type": "market_evaluate", "rerank": True, "ranks": [1, 20], "batch_size": 7}
    options = desk.load({"evaluation_params": raw}).params.evaluation_params
    assert type(options) is plugin_options("market_evaluate")
    assert (options.rerank, options.ranks, options.batch_size, options.every_epochs) == (True, (1, 20), 7, 1)


def test_another_plugin_leaves_the_former_one_s_keys_out(desk):
    evaluation = {"type": "market_evaluate", "rerank": True, "batch_size": 7}
    params, notes = desk.load({"evaluation_params": evaluation}, "evaluation_params.type=null")
    assert params.evaluation_params == EvaluationParams(batch_size=7)
    assert notes == (
        "params.json: 'evaluation_params.rerank' is left out, since --set sets evaluation_params.type to null",
    )


def test_another_schedule_leaves_the_former_one_s_keys_out(desk):
    lr = {"decay_step": [3, 5], "decay_gamma": 0.5, "decay_unit": "epoch", "warmup_epoch": 1}
    params = desk.load({"lr": lr}, "lr.schedule=cosine", "lr.end_factor=0.01").params
    assert params.lr == LearningRate(schedule="cosine", end_factor=0.01, warmup_epoch=1)
    assert desk.load({"lr": lr}, "lr.schedule=step").params.lr.decay_step == (3, 5)
    desk.write({"lr": lr}, "step.json")
    cosine = {"extends": "step.json", "lr": {"schedule": "cosine", "end_factor": 0.01}}
    assert desk.load(cosine, "lr.schedule=step").params.lr.decay_step == (3, 5)
    with pytest.raises(ParamsError, match=r"lr.decay_step: is for lr.schedule"):
        desk.load({"lr": lr}, "lr.schedule=cosine", "lr.decay_step=2")


def full() -> dict:
    return {
        "$schema": "config/params.schema.json",
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2},
        "tri_loss_margin": "soft_margin",
        "tri_loss_on": ["global", "parts"],
        "lr": {"decay_step": [3, 5]},
        "img_h": 192,
        "model_params": {"pcb_n_parts": 6, "feature_dim": 96, "feature_global_dim": 32},
        "parallels": [1],
        "evaluation_params": {"type": "market_evaluate", "ranks": [1, 3]},
    }


def test_resolved_params_load_as_what_they_were(desk, plugin_options):
    params = desk.load(full()).params
    assert desk.load(params.model_dump_json(indent=2)) == (params, ())
    assert params_from_dict(params.model_dump(mode="json"), "model.pth", plugin_options) == (params, ())
    assert params_from_dict(params.model_dump(), "model.pth", plugin_options).params == params
    assert params.lr.decay_step == (3, 5)


def test_an_empty_file_means_the_defaults(desk):
    assert desk.load({}) == (Params.model_validate({}), ())


def test_a_network_of_timm_needs_timm(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for module in ("from_timm", "timm_stages"):
        monkeypatch.delitem(sys.modules, f"models.backbones.{module}", raising=False)
    line = 'params.json: model_params.model: "timm:convnext_atto" needs the package timm; install it: pip install timm'
    assert desk.mistakes({"model_params": {"model": "timm:convnext_atto"}}) == [line]
    # Other mistakes are told without it.
    assert 'did you mean "resnet_50"?' in desk.mistakes({"model_params": {"model": "resnet_51"}})[0]
