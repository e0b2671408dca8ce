"""Settings that do not go together, and neighbours of theirs that do."""

from itertools import product

import pytest

from models.geometry import feature_map_size

PK = {"class_balanced": True, "P": 4, "K": 2}
NO_CLS = "tri_loss_lambda_cls: is 0, and tri_loss_margin or tri_loss_lambda_tri is 0 too: no loss is left to train with"


def halved(size: int, kernel: int, pad: int) -> int:
    """Slow reference: counts the places where a stride-2 kernel fits."""
    return len(range(0, size + 2 * pad - kernel + 1, 2))


@pytest.mark.parametrize(("size", "last_conv_stride"), list(product(range(16, 200), (1, 2))))
def test_feature_map_is_what_the_convolutions_leave(size, last_conv_stride):
    rows = halved(halved(size, 7, 3), 3, 1)
    for _ in range(1 + last_conv_stride):
        rows = halved(rows, 3, 1)
    assert feature_map_size(size, 128, last_conv_stride) == (rows, 128 // (16 * last_conv_stride))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"batch_sampling_params": PK, "batch_size": 9},
         ["batch_size: is 9, but batch_sampling_params.P x batch_sampling_params.K is 4 x 2 = 8; leave it out"]),
        ({"batch_sampling_params": PK | {"P": 9000}}, ["batch_sampling_params.P: P x batch_sampling_params.K is "
         "9000 x 2 = 18000; a batch has 2 to 16384 images"]),
        ({"batch_sampling_params": PK | {"P": 1, "K": 1}}, ["batch_sampling_params.P: P x batch_sampling_params.K is "
         "1 x 1 = 1; a batch has 2 to 16384 images"]),
        ({"tri_loss_margin": "soft_margin"}, ["tri_loss_margin: the triplet loss needs "
         "batch_sampling_params.class_balanced true; set it, or set 0 here"]),
        ({"tri_loss_margin": 0.3, "batch_sampling_params": PK | {"K": 1}},
         ["batch_sampling_params.K: the triplet loss (tri_loss_margin 0.3) needs at least 2, got 1"]),
        ({"tri_loss_margin": 0.3, "batch_sampling_params": PK | {"P": 1}},
         ["batch_sampling_params.P: the triplet loss (tri_loss_margin 0.3) needs at least 2, got 1"]),
        ({"tri_loss_lambda_cls": 0}, [NO_CLS]),
        ({"tri_loss_lambda_cls": 0, "tri_loss_margin": 1, "tri_loss_lambda_tri": 0}, [NO_CLS]),
        ({"tri_loss_on": ["global", "parts", "parts"]}, ['tri_loss_on: names "parts" more than once',
         'tri_loss_on: "parts" needs stripes, but model_params.pcb_n_parts is 0; use "global"']),
        ({"tri_loss_on": ["concat"]},
         ['tri_loss_on: "concat" needs stripes, but model_params.pcb_n_parts is 0; use "global"']),
        ({"tri_loss_margin": 1, "batch_sampling_params": PK, "model_params": {"pcb_n_parts": 4}},
         ['tri_loss_on: "global" needs a global branch beside the 4 stripes of model_params.pcb_n_parts; give '
          'model_params.feature_global_dim, or use "parts" or "concat"']),
        ({"model_params": {"feature_dim": 255, "pcb_n_parts": 4}}, ["model_params.feature_dim: 255 does not divide "
         "into model_params.pcb_n_parts 4; use 252 or 256"]),
        ({"img_h": 250, "model_params": {"feature_dim": 600, "pcb_n_parts": 6}}, ["model_params.pcb_n_parts: 6 stripes "
         "do not divide the 16 rows of the feature map (img_h 250, model_params.last_conv_stride 1); for img_h use 192 "
         "or 288"]),
        ({"img_h": 64, "model_params": {"pcb_n_parts": 4, "last_conv_stride": 2}}, ["model_params.pcb_n_parts: 4 "
         "stripes do not divide the 2 rows of the feature map (img_h 64, model_params.last_conv_stride 2); for img_h "
         "use 128"]),
        ({"model_params": {"feature_global_dim": 1}}, ["model_params.feature_global_dim: needs "
         "model_params.pcb_n_parts above 0; without stripes use model_params.feature_dim"]),
        ({"data_augmentation": {"resize_h": 235, "resize_w": 100, "pad": 10}},
         ["data_augmentation.resize_h: 235 and data_augmentation.pad 10 on both sides are smaller than the crop, "
          "img_h 256",
          "data_augmentation.resize_w: 100 and data_augmentation.pad 10 on both sides are smaller than the crop, "
          "img_w 128"]),
        ({"data_augmentation": {"random_erasing": {"min_area": 0.5}}}, ["data_augmentation.random_erasing.min_area: "
         "0.5 is above data_augmentation.random_erasing.max_area 0.4"]),
        ({"parallels": [0, 1]}, ["parallels: training on several devices is not available yet; give one index"]),
        ({"epoch": 3, "lr": {"warmup_epoch": 3.5}},
         ["lr.warmup_epoch: 3.5 is longer than the training, epoch 3"]),
        ({"lr": {"decay_step": [3, 3]}}, ["lr.decay_step: the steps of the list must rise"]),
        ({"fine_tune": True},
         ["fine_tune: needs pretrain_snapshot: the frozen layers would keep their initial weights"]),
        ({"fine_tune": True, "pretrain_snapshot": "a.pth", "lr": {"fc_lr": 0}},
         ["fine_tune: trains with lr.fc_lr only, and that is 0"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    found = desk.mistakes(content)
    assert found[-len(lines) :] == [f"params.json: {line}" for line in lines]
    assert len(found) == len(lines) + (len(lines) > 1)


@pytest.mark.parametrize(
    "content",
    [
        {"batch_sampling_params": PK, "batch_size": 8},
        {"batch_sampling_params": {"class_balanced": False, "K": 1}, "batch_size": 9},
        {"tri_loss_margin": 0.3, "tri_loss_lambda_tri": 0},
        {"tri_loss_margin": "soft_margin", "batch_sampling_params": PK, "tri_loss_lambda_cls": 0},
        {"tri_loss_on": ["global"], "model_params": {"pcb_n_parts": 4}},
        {"img_h": 384, "model_params": {"feature_dim": 1536, "pcb_n_parts": 6, "feature_global_dim": 256}},
        {"img_h": 369, "model_params": {"feature_dim": 600, "pcb_n_parts": 6}},
        {"data_augmentation": {"resize_h": 236, "resize_w": 108, "pad": 10}},
        {"data_augmentation": {"resize_h": 288}},
        {"parallels": [3]},
        {"epoch": 3, "lr": {"warmup_epoch": 3, "decay_step": [1, 2]}},
        {"lr": {"decay_step": 0}},
        {"fine_tune": True, "pretrain_snapshot": "a.pth"},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params


def test_checks_run_beside_other_mistakes(desk):
    content = {"img_h": "tall", "parallels": [0, 1], "momentum": 2}
    assert desk.mistakes(content)[1:] == [
        'params.json: img_h: expected a whole number, got "tall"',
        "params.json: momentum: expected a number below 1, got 2",
        "params.json: parallels: training on several devices is not available yet; give one index",
    ]


@pytest.mark.parametrize(
    "content",
    [
        {"tri_loss_margin": 1, "batch_sampling_params": {"clas_balanced": True}},
        {"tri_loss_margin": 1, "batch_sampling_params": {"class_balanced": "yes"}},
        {"tri_loss_margin": 1, "batch_sampling_params": [True]},
        {"tri_loss_margin": 1, "class_balanced": True},
        {"batch_sampling_params": {"class_balanced": True, "P": "4"}, "batch_size": 9},
    ],
)
def test_no_second_mistake_follows_from_the_first(desk, content):
    assert len(desk.mistakes(content)) == 1


def test_a_conflict_is_shown_where_the_key_was_written(desk):
    assert desk.mistakes({"batch_sampling_params": PK, "tri_loss_margin": 0.3}, "batch_size=9") == [
        "--set: batch_size: is 9, but batch_sampling_params.P x batch_sampling_params.K is 4 x 2 = 8; leave it out"
    ]
    assert desk.mistakes({"batch_sampling_params": PK | {"batch_size": 9}})[0].startswith(
        "params.json: batch_sampling_params.batch_size: is 9"
    )
