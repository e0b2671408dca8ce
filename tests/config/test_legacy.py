"""The predecessor's files: every spelling of the table, switched on and switched off."""

import pytest

from config.legacy import SPELLINGS

COSINE = {"model_params.classifier": "cosine", "model_params.cosine_scale": 15, "softmax_margin": 0.3}
SETS_COSINE = "is the predecessor's way to set 'model_params.classifier' \"cosine\", 'model_params.cosine_scale'"
SETS_FOCAL = "is the predecessor's way to set 'focal_gamma'"
SETS_DROPS = "is the predecessor's way to set 'model_params.random_drop_branches'"
SETS_ONLY = "is the predecessor's way to set 'tri_loss_margin' 0, 'tri_loss_adaptive_weight' false"
SAME = "is given as well, which is the same setting; keep one of the two"
OFF = "is the predecessor's; it is switched off there and left out here"


def value_at(params, key):
    for part in key.split("."):
        params = getattr(params, part)
    return params


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


TRANSLATED = [
    ("epochs", 7, {"epoch": 7}, "is the predecessor's name of 'epoch'"),
    ("gpus", [1], {"parallels": (1,)}, "is the predecessor's name of 'parallels'"),
    ("gpus", 1, {"parallels": (1,)}, "1 is the predecessor's way to set 'parallels' [1]"),
    ("gpus", "1", {"parallels": (1,)}, "\"1\" is the predecessor's way to set 'parallels' [1]"),
    ("gpus", "", {"parallels": ()}, "\"\" is the predecessor's way to set 'parallels' []"),
    ("optimizer", "SGD", {"optimizer": "sgd"}, '"SGD" is the predecessor\'s spelling of "sgd"'),
    ("optimizer", "Adam", {"optimizer": "adam"}, '"Adam" is the predecessor\'s spelling of "adam"'),
    ("tri_loss_params.margin", 0, {"tri_loss_margin": 0}, "is the predecessor's name of 'tri_loss_margin'"),
    ("tri_loss_params.lambda_tri", 2, {"tri_loss_lambda_tri": 2}, "is the predecessor's name of 'tri_loss_lambda_tri'"),
    ("tri_loss_params.lambda_cls", 2, {"tri_loss_lambda_cls": 2}, "is the predecessor's name of 'tri_loss_lambda_cls'"),
    ("tri_loss_params.use_adaptive_weight", False, {"tri_loss_adaptive_weight": False},
     "is the predecessor's name of 'tri_loss_adaptive_weight'"),
    ("softmax_only", True, {"tri_loss_margin": 0}, f"true {SETS_ONLY}"),
    ("softmax_only", "true", {"tri_loss_margin": 0}, f'"true" {SETS_ONLY}'),
    ("softmax_only", False, {"tri_loss_margin": 0}, OFF),
    ("focal_loss", True, {"focal_gamma": 2}, f"true {SETS_FOCAL} 2.0"),
    ("focal_loss", "true", {"focal_gamma": 2}, f'"true" {SETS_FOCAL} 2.0'),
    ("focal_loss", False, {"focal_gamma": 0}, f"false {SETS_FOCAL} 0.0"),
    ("focal_loss", "false", {"focal_gamma": 0}, f'"false" {SETS_FOCAL} 0.0'),
    ("focal_loss", None, {"focal_gamma": 0}, f"null {SETS_FOCAL} 0.0"),
    ("focal_loss", 1, {"focal_gamma": 1}, "is the predecessor's name of 'focal_gamma'"),
    ("focal_loss", 0.5, {"focal_gamma": 0.5}, "is the predecessor's name of 'focal_gamma'"),
    ("asoftmax_params", {"margin": 0.3, "scale": 15}, COSINE, f"{SETS_COSINE} 15, 'softmax_margin' 0.3"),
    ("asoftmax_params", {"margin": [0.3], "scale": 15, "step": 0}, COSINE, f"{SETS_COSINE} 15, 'softmax_margin' 0.3"),
    ("asoftmax_params", {"margin": 0.3, "scale": 15, "step": 9},
     COSINE | {"softmax_margin": (0.3,), "softmax_margin_step": 9},
     f"{SETS_COSINE} 15, 'softmax_margin' [0.3], 'softmax_margin_step' 9"),
    ("asoftmax_params", {"margin": [0, 0.1, 0.3], "scale": 15, "step": 100},
     COSINE | {"softmax_margin": (0, 0.1, 0.3), "softmax_margin_step": 100},
     f"{SETS_COSINE} 15, 'softmax_margin' [0, 0.1, 0.3], 'softmax_margin_step' 100"),
    ("asoftmax_params", {"margin": 0.3}, COSINE | {"model_params.cosine_scale": 0},
     f"{SETS_COSINE} 0, 'softmax_margin' 0.3"),
    ("asoftmax_params", {"scale": 15}, COSINE | {"softmax_margin": 0}, f"{SETS_COSINE} 15, 'softmax_margin' 0"),
    ("asoftmax_params", {"margin": [0, 0.0], "scale": 0, "step": 100}, {"model_params.classifier": "linear"}, OFF),
    ("asoftmax_params", {"margin": 0}, {"model_params.classifier": "linear"}, OFF),
    ("asoftmax_params", {"margin": None, "scale": None}, {"model_params.classifier": "linear"}, OFF),
    ("asoftmax_params", {}, {"model_params.classifier": "linear"}, OFF),
    ("batch_sampling_params.batch_size", 8, {"batch_size": 8}, "is the predecessor's name of 'batch_size'"),
    ("data_augmentation.crop_h", 288, {"data_augmentation.resize_h": 288},
     "is the predecessor's name of 'data_augmentation.resize_h'"),
    ("data_augmentation.crop_w", 144, {"data_augmentation.resize_w": 144},
     "is the predecessor's name of 'data_augmentation.resize_w'"),
    ("data_augmentation.imagenet_static", True, {"data_augmentation.normalisation": "imagenet"},
     "true is the predecessor's way to set 'data_augmentation.normalisation' \"imagenet\""),
    ("data_augmentation.imagenet_static", "false", {"data_augmentation.normalisation": "half"},
     '"false" is the predecessor\'s way to set \'data_augmentation.normalisation\' "half"'),
    ("model_params.feature_gobal_dim", 0, {"model_params.feature_global_dim": 0},
     "is the predecessor's name of 'model_params.feature_global_dim'"),
    ("model_params.random_drop_branchs", 0, {"model_params.random_drop_branches": 0},
     "is the predecessor's name of 'model_params.random_drop_branches'"),
    ("model_params.random_drop_branchs", False, {"model_params.random_drop_branches": 0}, f"false {SETS_DROPS} 0"),
    ("model_params.random_drop_branchs", "false", {"model_params.random_drop_branches": 0}, f'"false" {SETS_DROPS} 0'),
    ("model_params.spectral_trans", False, {"model_params.spectral_trans": 0},
     "false is the predecessor's spelling of 0.0"),
    ("model_params.spectral_trans", "false", {"model_params.spectral_trans": 0},
     '"false" is the predecessor\'s spelling of 0.0'),
    ("model_params.feature_mask", True, {"model_params.feature_mask": "all"},
     'true is the predecessor\'s spelling of "all"'),
    ("model_params.feature_mask", "true", {"model_params.feature_mask": "all"},
     '"true" is the predecessor\'s spelling of "all"'),
    ("model_params.feature_mask", False, {"model_params.feature_mask": "none"},
     'false is the predecessor\'s spelling of "none"'),
    ("model_params.feature_mask", "false", {"model_params.feature_mask": "none"},
     '"false" is the predecessor\'s spelling of "none"'),
    ("model_params.feature_mask", 0, {"model_params.feature_mask": "none"},
     '0 is the predecessor\'s spelling of "none"'),
    ("gan_params.preheating", 500, {"gan_params.preheat_steps": 500},
     "is the predecessor's name of 'gan_params.preheat_steps'"),
    ("evaluation_params.type", "None", {"evaluation_params.type": None},
     '"None" is the predecessor\'s spelling of null'),
    ("evaluation_params.type", "market_evalute", {"evaluation_params.type": "market_evaluate"},
     '"market_evalute" is the predecessor\'s spelling of "market_evaluate"'),
    ("evaluation_params.step", 3, {"evaluation_params.every_epochs": 3},
     "is the predecessor's name of 'evaluation_params.every_epochs'"),
]  # fmt: skip
for spelling in ("colour_jitering", "colour_jittering"):
    for switch, strength in ((True, 0.2), ("true", 0.2), (False, 0.0)):
        changes = {f"data_augmentation.{change}": strength for change in ("brightness", "contrast", "saturation")}
        words = ", ".join(f"'{key}' {strength}" for key in changes)
        text = f'"{switch}"' if isinstance(switch, str) else str(switch).lower()
        note = f"{text} is the predecessor's way to set {words}"
        TRANSLATED.append((f"data_augmentation.{spelling}", switch, changes, note))


@pytest.mark.parametrize(("key", "value", "expected", "note"), TRANSLATED)
def test_an_old_spelling_is_translated_with_a_note(desk, key, value, expected, note):
    params, notes = desk.load(nested(key, value))
    assert {new: value_at(params, new) for new in expected} == expected
    assert notes == (f"params.json: '{key}' {note}",)


def test_every_row_of_the_table_is_tested():
    assert {spelling.old for spelling in SPELLINGS} == {case[0] for case in TRANSLATED}


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("focal_loss", "2", 'focal_loss: expected true, false or a power of at least 0, got "2"'),
        ("focal_loss", -1, "focal_loss: expected true, false or a power of at least 0, got -1"),
        ("tri_loss_params.use_adaptive_weight", 3,
         "tri_loss_params.use_adaptive_weight: expected true or false, got 3"),
        ("tri_loss_params.use_adaptive_weight", True, "tri_loss_params.use_adaptive_weight: weighs the triplet loss, "
         "but tri_loss_margin or tri_loss_lambda_tri is 0"),
        ("model_params.random_drop_branchs", True,
         "model_params.random_drop_branchs: expected how many branches a step leaves out, such as 1, got true"),
        ("model_params.random_drop_branchs", 1.5,
         "model_params.random_drop_branchs: expected a whole number, got 1.5"),
        ("model_params.random_drop_branchs", 6, "model_params.random_drop_branchs: chooses among stripes; it needs "
         "model_params.pcb_n_parts of at least 2, got 0"),
        ("model_params.feature_mask", 3,
         'model_params.feature_mask: expected "none" or "parts" or "global" or "all", got 3'),
        ("model_params.spectral_trans", True, "model_params.spectral_trans: expected a number, got true"),
        ("asoftmax_params", {"margin": [0, 0.3], "scale": 15}, "asoftmax_params: the list needs softmax_margin_step, "
         "the iterations for which each of its 2 margins holds"),
        ("asoftmax_params", {"margin": [0, 1.5]}, "asoftmax_params: expected margins from 0 to below 1, got 1.5"),
        ("asoftmax_params", {"margin": True}, "asoftmax_params: expected margins from 0 to below 1, got true"),
        ("asoftmax_params", {"scale": "15"}, 'asoftmax_params: expected a scale of at least 0, got "15"'),
        ("asoftmax_params", {"step": 1.5},
         "asoftmax_params: expected a whole number of iterations as step, got 1.5"),
        ("asoftmax_params", {"margin": [], "scale": 15},
         "asoftmax_params: the list has no margins; use 0 for none"),
        ("gan_params", {"adv_train": "true"}, "gan_params.adv_train: trains a generator along, but "
         "gan_params.mix_ratio is 0, so none of its images is used; set that above 0"),
        ("gan_params", 3, "gan_params: expected an object, got 3"),
        ("asoftmax_params", {"marign": 3},
         'asoftmax_params: unknown key "marign"; the predecessor has margin, scale and step'),
        ("softmax_only", 1, "softmax_only: expected true or false, got 1"),
        ("gpus", "all", 'gpus: expected GPU numbers such as "0,1", got "all"'),
        ("gpus", "1,1", "gpus: names a GPU twice; each process needs one of its own"),
        ("gpus", True, "gpus: expected a list, got true"),
        ("epochs", "7", 'epochs: expected a whole number, got "7"'),
        ("epochs", {"a": 1}, "epochs: expected a whole number, got an object"),
        ("optimizer", "SGDD", 'optimizer: unknown value "SGDD"; did you mean "sgd"? Allowed: "sgd", "nesterov", '
         '"adam", "amsgrad", "rmsprop", "adamw"'),
        ("tri_loss_params.marign", 1, "tri_loss_params.marign: unknown key; did you mean 'margin'?"),
        ("tri_loss_params", 1, "tri_loss_params: unknown key; did you mean 'tri_loss_margin'?"),
        ("data_augmentation.mirror", "True", 'data_augmentation.mirror: expected true or false, got "True"'),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_the_words_of_the_file(desk, key, value, line):
    assert desk.mistakes(nested(key, value)) == [f"params.json: {line}"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"epochs": 3, "epoch": 4}, f"epochs: 'epoch' {SAME}"),
        (
            {"tri_loss_params": {"margin": 0}, "tri_loss_margin": 0.3},
            f"tri_loss_params.margin: 'tri_loss_margin' {SAME}",
        ),
        ({"gpus": "0", "parallels": []}, f"gpus: 'parallels' {SAME}"),
        (
            {"data_augmentation": {"colour_jitering": True, "contrast": 0.1}},
            f"data_augmentation.colour_jitering: 'data_augmentation.contrast' {SAME}",
        ),
    ],
)
def test_two_spellings_of_different_values_are_a_mistake(desk, content, line):
    assert desk.mistakes(content) == [f"params.json: {line}"]


def test_two_spellings_of_one_value_are_none(desk):
    params, notes = desk.load({"batch_size": 8, "batch_sampling_params": {"batch_size": 8}, "epochs": 3, "epoch": 3})
    assert (params.batch_size, params.epoch) == (8, 3)
    assert len(notes) == 2


def test_a_section_is_made_where_a_translation_belongs_or_its_lack_is_told(desk):
    old = {"asoftmax_params": {"margin": 0.3}}
    params, _ = desk.load(old | {"model_params": {"pcb_n_parts": 2}})
    assert (params.model_params.classifier, params.model_params.pcb_n_parts) == ("cosine", 2)
    assert desk.mistakes(old | {"model_params": 3}) == ["params.json: model_params: expected an object, got 3"]


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
        "fine_tune": "false",
        "data_augmentation": {"mirror": "false"},
        "evaluation_params": {"type": "market_evaluate", "rerank": "true"},
        "working_dir": "true",
    }
    params, notes = desk.load(content)
    assert params.data_augmentation.mirror is False
    assert params.evaluation_params.rerank is True
    assert params.working_dir == "true"
    assert sorted(notes) == [
        "params.json: 'data_augmentation.mirror' is the text \"false\"; it means false without quotes",
        "params.json: 'evaluation_params.rerank' is the text \"true\"; it means true without quotes",
        "params.json: 'fine_tune' is the text \"false\"; it means false without quotes",
    ]


def test_the_evaluator_s_file_may_be_old_too(desk):
    params, notes = desk.load_eval({"gpus": "0", "evaluation_params": {"type": "market_evalute", "step": 2}})
    assert params.parallels == (0,)
    assert params.evaluation_params.type == "market_evaluate"
    assert len(notes) == 3
