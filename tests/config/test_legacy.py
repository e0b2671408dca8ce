"""The spellings of the predecessor's files; tests/scripts/test_predecessor.py trains with a whole file of them."""

import json
from functools import reduce
from pathlib import Path

import pytest

from config import legacy_eval, legacy_params
from config.gan import GanParams
from config.load import load_eval_params
from config.reading import Settings
from evaluate.core.plugins import plugin_options

COSINE = {"model_params.classifier": "cosine", "model_params.cosine_scale": 15, "softmax_margin": 0.3}
LINEAR = {"model_params.classifier": "linear"}
JITTER_ON = {f"data_augmentation.{change}": 0.1 for change in ("brightness", "contrast", "saturation")}
JITTER_OFF = dict.fromkeys(JITTER_ON, 0.0)
ERASING = {"data_augmentation.random_erasing.probability": 0.6, "data_augmentation.random_erasing.max_area": 0.1}
ON, OFF = (True, "true"), (False, "false")


def flat(tree, above=()):
    """The keys of the values in a tree, dotted."""
    if not isinstance(tree, dict):
        return [".".join(above)]
    return [key for name, value in tree.items() for key in flat(value, (*above, name))]


def tree(content):
    """Dotted keys as sections."""
    settings = Settings({}, "")
    for name, value in content.items():
        settings.put(tuple(name.split(".")), value, ("", ()))
    return settings.data


def values(params, names):
    return {name: reduce(getattr, name.split("."), params) for name in names}


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


TRANSLATED = [
    ("epochs", 7, {"epoch": 7}),
    *(("gpus", value, {"parallels": (1,)}) for value in ([1], 1, "1")),
    ("gpus", "", {"parallels": ()}),
    ("optimizer", "SGD", {"optimizer": "sgd"}),
    ("optimizer", "Adam", {"optimizer": "adam"}),
    ("tri_loss_params.margin", 0, {"tri_loss_margin": 0}),
    ("tri_loss_params.lambda_tri", 2, {"tri_loss_lambda_tri": 2}),
    ("tri_loss_params.lambda_cls", 2, {"tri_loss_lambda_cls": 2}),
    ("tri_loss_params.use_adaptive_weight", False, {"tri_loss_adaptive_weight": False}),
    *(("softmax_only", value, {"tri_loss_margin": 0}) for value in (*ON, *OFF)),
    *(("focal_loss", value, {"focal_gamma": 2}) for value in ON),
    *(("focal_loss", value, {"focal_gamma": 0}) for value in (*OFF, None)),
    ("focal_loss", 0.5, {"focal_gamma": 0.5}),
    ("asoftmax_params", {"margin": 0.3, "scale": 15}, COSINE),
    ("asoftmax_params", {"margin": [0.3], "scale": 15, "step": 0}, COSINE),
    (
        "asoftmax_params",
        {"margin": 0.3, "scale": 15, "step": 9},
        COSINE | {"softmax_margin": (0.3,), "softmax_margin_step": 9},
    ),
    (
        "asoftmax_params",
        {"margin": [0, 0.1, 0.3], "scale": 15, "step": 100},
        COSINE | {"softmax_margin": (0, 0.1, 0.3), "softmax_margin_step": 100},
    ),
    ("asoftmax_params", {"margin": 0.3}, COSINE | {"model_params.cosine_scale": 0}),
    (
        "asoftmax_params",
        {"margin": [0], "scale": 15, "unlabel_fold": 0, "unlabel_update": 9},
        COSINE | {"softmax_margin": 0},
    ),
    ("asoftmax_params", {"scale": 15}, COSINE | {"softmax_margin": 0}),
    ("asoftmax_params", {"margin": 0, "scale": 15, "step": 100.0}, LINEAR),
    ("asoftmax_params", {"margin": [0, 0.0], "scale": 0, "step": 100}, LINEAR),
    *(("asoftmax_params", value, LINEAR) for value in ({}, {"margin": 0}, {"margin": None, "scale": None})),
    ("batch_sampling_params.batch_size", 8, {"batch_size": 8}),
    *(("data_augmentation.colour_jitering", value, JITTER_ON) for value in ON),
    *((f"data_augmentation.{name}", False, JITTER_OFF) for name in ("colour_jittering", "colour_jiterring")),
    *(("data_augmentation.random_erasing", value, ERASING) for value in ON),
    *(
        ("data_augmentation.random_erasing", value, {"data_augmentation.random_erasing.probability": 0})
        for value in OFF
    ),
    *(("data_augmentation.gaussian_noise", value, {"data_augmentation.noise": 0.001}) for value in ON),
    ("data_augmentation.gaussian_noise", False, {"data_augmentation.noise": 0}),
    ("num_preprocess_workers", 8, {}),
    ("data_augmentation.imagenet_static", True, {"data_augmentation.normalisation": "imagenet"}),
    ("data_augmentation.imagenet_static", "false", {"data_augmentation.normalisation": "half"}),
    ("model_params.feature_gobal_dim", 0, {"model_params.feature_global_dim": 0}),
    *(("model_params.random_drop_branchs", value, {"model_params.random_drop_branches": 0}) for value in (0, *OFF)),
    *(("model_params.spectral_trans", value, {"model_params.spectral_trans": 0}) for value in OFF),
    *(("model_params.feature_mask", value, {"model_params.feature_mask": "all"}) for value in ON),
    *(("model_params.feature_mask", value, {"model_params.feature_mask": "none"}) for value in (*OFF, 0)),
    ("gan_params.input_dim", 0, {"gan_params.input_dim": 128}),
    ("gan_params.preheating", 0, {"gan_params.preheat_steps": 0}),
    ("gan_params.beta1", 0.5, {"gan_params.betas": (0.5, 0.999)}),
    *((f"gan_params.{name}", value, {}) for name in ("alone_train", "only_train") for value in OFF),
    ("gan_params.train_loop", 3, {}),
    ("evaluation_params.type", "None", {"evaluation_params.type": None}),
    ("evaluation_params.type", "market_evalute", {"evaluation_params.type": "market_evaluate"}),
    ("evaluation_params.step", 3, {"evaluation_params.every_epochs": 3}),
    ("evaluation_params.step", None, {"evaluation_params.every_epochs": 1}),
    ("evaluation_params.epoch", 20, {"evaluation_params.every_epochs": 20}),
    *(("batch_sampling_params.softmax_only", value, {"tri_loss_margin": 0}) for value in (*ON, *OFF)),
]


@pytest.mark.parametrize(("key", "value", "expected"), TRANSLATED)
def test_an_old_spelling_is_translated_with_a_note(desk, key, value, expected):
    params, notes = desk.load(nested(key, value))
    assert values(params, expected) == expected
    (note,) = [note for note in notes if "gaussian_noise' is missing" not in note]
    assert note.startswith(f"params.json: '{key}' ")


TOGETHER = [
    (
        {"data_augmentation.crop_h": 256, "data_augmentation.crop_w": 112, "img_h": 288, "img_w": 144},
        {"img_h": 256, "img_w": 112, "data_augmentation.resize_h": 288, "data_augmentation.resize_w": 144},
    ),
    ({"data_augmentation.crop_h": 384, "data_augmentation.crop_w": 128, "img_h": 384}, {"img_h": 384, "img_w": 128}),
    ({"data_augmentation.crop_h": 0, "data_augmentation.crop_w": 64, "img_h": 384}, {"img_h": 384, "img_w": 128}),
    ({"data_augmentation.padding_h": 6, "data_augmentation.padding_w": 6}, {"data_augmentation.pad": 6}),
    ({"data_augmentation.padding_h": 10, "data_augmentation.padding_w": 5}, {"data_augmentation.pad": (10, 5)}),
    ({"data_augmentation.padding_h": 10, "data_augmentation.padding_w": 0}, {"data_augmentation.pad": 0}),
    (
        {"batch_sampling_params": {"class_balanced": True, "P": 8, "K": 2, "batch_size": 64}},
        {"batch_size": None, "batch_images": 16},
    ),
    ({"batch_sampling_params": {"class_balanced": False, "P": 8, "K": 2, "batch_size": 64}}, {"batch_images": 64}),
    (
        {"tri_loss_params": {"margin": 0, "use_adaptive_weight": True, "lambda_tri": 10, "lambda_cls": 0}},
        {"tri_loss_margin": 0, "tri_loss_adaptive_weight": False, "tri_loss_lambda_cls": 1},
    ),
    ({"tri_loss_params": {"margin": 0.3, "lambda_tri": 0, "lambda_cls": 0}}, {"tri_loss_lambda_cls": 1}),
    (
        {"tri_loss_params": {"margin": 0.3, "lambda_cls": 0}, "batch_sampling_params": {"class_balanced": False}},
        {"tri_loss_margin": 0, "tri_loss_lambda_cls": 1},
    ),
    (
        {"gan_params": {"input_dim": 0, "adv_train": True, "d_update_freq": 0.5, "preheating": 3, "beta1": 0.5}},
        {"gan_params": GanParams()},
    ),
    (
        {"gan_params": {"input_dim": 100, "d_update_freq": 1.0}},
        {"gan_params.input_dim": 100, "gan_params.d_update_freq": 1},
    ),
    (
        {"epochs": 90, "lr.decay_step": [40, 80.0], "batch_sampling_params.class_balanced": True},
        {"lr.decay_step": (40, 80), "lr.decay_unit": "epoch"},
    ),
    ({"lr.decay_step": [40, 80], "batch_sampling_params.class_balanced": True}, {"lr.decay_unit": "auto"}),
]


@pytest.mark.parametrize(("content", "expected"), TOGETHER)
def test_keys_that_mean_something_together(desk, content, expected):
    params, _ = desk.load(tree(content))
    assert values(params, expected) == expected


def test_every_key_of_the_table_is_tested():
    tested = {case[0] for case in TRANSLATED} | {key for content, _ in TOGETHER for key in flat(content)}
    known = {key for spelling in legacy_params.SPELLINGS for key in spelling.keys}
    of_a_generator = {*legacy_params.GENERATOR_KEYS} - {"gan_params.input_dim"}
    assert known - of_a_generator <= tested


def test_noise_that_the_predecessor_added_unasked_is_told_of_and_stays_off(desk):
    params, notes = desk.load({"data_augmentation": {"colour_jitering": False}})
    assert params.data_augmentation.noise == 0
    assert "'data_augmentation.gaussian_noise' is missing; the predecessor then added noise" in notes[0]


EVALUATION = [
    ("batch_size", 512, {"evaluation_params.batch_size": 512}),
    ("gpus", [3], {"parallels": (3,)}),
    ("benchmark_type", "market_evalute", {"evaluation_params.type": "market_evaluate"}),
    ("img_h", 384, {"expected.img_h": 384}),
    ("img_w", 128.0, {"expected.img_w": 128}),
    ("model_params", {"feature_gobal_dim": 3}, {"expected.model_params": {"feature_global_dim": 3}}),
    ("evaluation_params", {"type": "market_evalute"}, {"evaluation_params.type": "market_evaluate"}),
    ("spectral_transform", 0, {}),
    ("feature_path", "", {"features_path": ""}),
    ("feature_path", None, {"features_path": ""}),
    ("feature_path", "new.npz", {"features_path": "new.npz", "model_path": "runs"}),
    ("feature_path", "here.npz", {"features_path": "", "model_path": "here.npz"}),
]


@pytest.mark.parametrize(("key", "value", "expected"), EVALUATION)
def test_the_evaluator_s_old_keys_are_translated_with_a_note(desk, key, value, expected):
    Path("here.npz").touch()
    params, notes = desk.load_eval({key: value})
    assert values(params, expected) == expected
    assert any(note.startswith((f"params.json: '{key}'", f"params.json: '{key}.")) for note in notes)


def test_every_old_key_of_the_evaluator_is_tested():
    known = {key.partition(".")[0] for spelling in legacy_eval.SPELLINGS for key in spelling.keys}
    assert known == {case[0] for case in EVALUATION}


def test_the_spectral_transform_was_a_temperature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"benchmark_type": "market_evaluate", "spectral_transform": 0.7}
    Path("old.json").write_text(json.dumps(content))
    options = load_eval_params(Path("old.json"), plugin_options=plugin_options).params.evaluation_params
    assert options is not None
    assert options.model_dump(include={"re_ranking", "spectral"}) == {
        "re_ranking": "spectral",
        "spectral": {"top": 50, "temperature": 0.7},
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"feature_path": "features.pkl"}, "feature_path: the predecessor's pickled features"),
        ({"model_params": {"featur_dim": 3}}, "model_params.featur_dim: unknown key; did you mean 'feature_dim'?"),
        ({"model_params": 3}, "model_params: expected an object, got 3"),
    ],
)
def test_mistakes_in_an_old_file_of_the_evaluator(desk, content, words):
    (found,) = desk.mistakes(content, loader=load_eval_params)
    assert words in found


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ({"epochs": 7}, "'epochs' 7 is the predecessor's spelling of 'epoch' 7"),
        ({"focal_loss": "true"}, "'focal_loss' \"true\" is the predecessor's spelling of 'focal_gamma' 2.0"),
        (
            {"asoftmax_params": {}},
            "'asoftmax_params' is the predecessor's and switched off, as by default here",
        ),
        ({"fine_tune": "false"}, "'fine_tune' is the text \"false\"; it means false without quotes"),
        ({"epoch": 7.0}, "'epoch' 7.0 means 7"),
    ],
)
def test_notes_say_what_an_old_spelling_means(desk, content, note):
    assert desk.load(content).notes == (f"params.json: {note}",)


@pytest.mark.parametrize("padding", [{"padding_h": 5}, {"padding_h": 5, "padding_w": 0}])
def test_a_note_on_one_or_two_keys_is_a_sentence(desk, padding):
    note = desk.load({"data_augmentation": padding}).notes[-1]
    assert "'data_augmentation.padding_h' 5" in note
    assert note.endswith("had no effect in the predecessor, which padded only where both were above 0")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("focal_loss", "2", 'expected a number, got "2"'),
        ("focal_loss", -1, "expected a number of at least 0, got -1"),
        ("tri_loss_params.use_adaptive_weight", 3, "expected true or false, got 3"),
        ("tri_loss_params.use_adaptive_weight", True, "is for the triplet loss"),
        ("model_params.random_drop_branchs", True, "expected how many branches"),
        ("model_params.random_drop_branchs", 1.5, "expected a whole number, got 1.5"),
        ("model_params.random_drop_branchs", 6, "at least 2, got 0"),
        ("model_params.feature_mask", 3, 'expected "none" or "parts" or "global" or "all", got 3'),
        ("model_params.spectral_trans", True, "expected a number, got true"),
        ("asoftmax_params", {"margin": [0, 0.3], "scale": 15}, "each of its 2 margins"),
        ("asoftmax_params", {"margin": [0, 1.5]}, "expected a number below 1, got 1.5"),
        ("asoftmax_params", {"margin": True}, "expected a number or a list, got true"),
        ("asoftmax_params", {"scale": "15"}, 'expected a number, got "15"'),
        ("asoftmax_params", {"margin": 0.3, "step": 1.5}, "expected a whole number, got 1.5"),
        ("asoftmax_params", {"margin": 0, "unlabel_fold": 2}, "set unlabel_fold to 0"),
        ("gan_params.alone_train", True, "has no counterpart"),
        ("gan_params.preheating", 3, "counts epochs"),
        ("gan_params.d_update_freq", 0.5, "was a probability"),
        ("data_augmentation.random_erasing", 0.5, "expected an object, got 0.5"),
        ("data_augmentation.gaussian_noise", 0.5, "expected true or false, got 0.5"),
        ("asoftmax_params", {"margin": 0, "scale": 0, "step": "x"}, 'expected a whole number, got "x"'),
        ("asoftmax_params", {"margin": 0, "step": -1}, "expected a number of at least 0, got -1"),
        ("asoftmax_params", {"margin": [0, ""], "step": 9}, 'expected a number, got ""'),
        ("asoftmax_params", {"margin": [], "scale": 15}, "the list has no margins"),
        ("asoftmax_params", {"marign": 3}, 'unknown key "marign"; the predecessor has margin, scale, step'),
        ("asoftmax_params", 3, "expected an object, got 3"),
        ("gan_params", 3, "expected an object, got 3"),
        ("softmax_only", 1, "expected true or false, got 1"),
        ("gpus", "all", 'expected GPU numbers such as "0,1", got "all"'),
        ("gpus", "1,1", "names a GPU twice"),
        ("gpus", True, "expected a list, got true"),
        ("epochs", "7", 'expected a whole number, got "7"'),
        ("epochs", {"a": 1}, "expected a whole number, got an object"),
        ("optimizer", "SGDD", 'unknown value "SGDD"; did you mean "sgd"?'),
        ("tri_loss_params.marign", 1, "unknown key; did you mean 'margin'?"),
        ("tri_loss_params", 1, "unknown key; did you mean 'tri_loss_margin'?"),
        ("data_augmentation.mirror", "True", 'expected true or false, got "True"'),
    ],
)
def test_mistakes_name_the_key_of_the_file(desk, key, value, line):
    (found,) = desk.conflicts(nested(key, value))
    assert found.startswith(key)
    assert line in found


@pytest.mark.parametrize(
    ("content", "old", "new"),
    [
        ({"epochs": 3, "epoch": 4}, "epochs", "epoch"),
        ({"tri_loss_params": {"margin": 0}, "tri_loss_margin": 0.3}, "tri_loss_params.margin", "tri_loss_margin"),
        ({"gpus": "0", "parallels": []}, "gpus", "parallels"),
        (
            {"data_augmentation": {"colour_jitering": True, "contrast": 0.3}},
            "data_augmentation.colour_jitering",
            "data_augmentation.contrast",
        ),
    ],
)
def test_two_spellings_of_different_values_are_a_mistake(desk, content, old, new):
    assert desk.conflicts(content)[0].startswith(f"{old}: '{new}' is given as well")


def test_two_spellings_of_one_value_are_none(desk):
    params, notes = desk.load({"batch_size": 8, "batch_sampling_params": {"batch_size": 8}, "epochs": 3, "epoch": 3})
    assert (params.batch_size, params.epoch) == (8, 3)
    assert len(notes) == 2


def test_a_translation_joins_the_section_it_belongs_to(desk):
    old = {"asoftmax_params": {"margin": 0.3}}
    params, _ = desk.load(old | {"model_params": {"pcb_n_parts": 2}})
    assert (params.model_params.classifier, params.model_params.pcb_n_parts) == ("cosine", 2)
    assert desk.conflicts(old | {"model_params": 3}) == ["model_params: expected an object, got 3"]


def test_softmax_only_overrules_the_triplet_settings_beside_it(desk):
    triplet = {"margin": 0.3, "use_adaptive_weight": "true"}
    params, _ = desk.load({"tri_loss_params": triplet, "softmax_only": "true"})
    assert (params.tri_loss_margin, params.tri_loss_adaptive_weight) == (0, False)


def test_our_own_spellings_have_no_note(desk):
    model = {"feature_mask": "none", "spectral_trans": 0, "random_drop_branches": 2, "pcb_n_parts": 2}
    assert desk.load({"model_params": model}).notes == ()


def test_an_old_file_can_be_extended_in_new_words(desk):
    desk.write({"epochs": 7, "softmax_only": True}, "old.json")
    params, notes = desk.load({"extends": "old.json", "epoch": 9}, "optimizer=Adam")
    assert (params.epoch, params.optimizer) == (9, "adam")
    assert [note.split(":")[0] for note in notes] == ["old.json", "old.json", "--set"]


def test_booleans_may_be_texts_wherever_a_boolean_is_expected(desk):
    content = {
        "data_augmentation": {"mirror": "false"},
        "evaluation_params": {"type": "market_evaluate", "rerank": "true"},
        "working_dir": "true",
    }
    params, notes = desk.load(content)
    assert params.data_augmentation.mirror is False
    assert params.evaluation_params.rerank is True
    assert params.working_dir == "true"
    assert sorted(note.split("'")[1] for note in notes) == ["data_augmentation.mirror", "evaluation_params.rerank"]


def test_the_evaluator_s_file_may_be_old_too(desk):
    params, notes = desk.load_eval({"gpus": "0", "evaluation_params": {"type": "market_evalute", "step": 2}})
    assert params.parallels == (0,)
    assert params.evaluation_params.type == "market_evaluate"
    assert len(notes) == 3
