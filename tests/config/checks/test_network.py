"""Branches of the network: settings that do not go together, and neighbours of theirs that do."""

from itertools import product

import pytest

from models.geometry import band_rows, feature_map_size
from models.options import ModelParams

PARTS = {"pcb_n_parts": 4}
BOTH = {"pcb_n_parts": 4, "feature_global_dim": 64}
NEEDS_STRIPES = "needs model_params.pcb_n_parts above 0; without stripes use"
CHOOSES = "chooses among stripes; it needs model_params.pcb_n_parts of at least 2, got"
STRIPE = "a stripe (model_params.pcb_n_parts, img_h)"


def halved(size: int, kernel: int, pad: int) -> int:
    """Slow reference: counts the places where a stride-2 kernel fits."""
    return len(range(0, size + 2 * pad - kernel + 1, 2))


@pytest.mark.parametrize(("size", "last_conv_stride"), list(product(range(16, 200), (1, 2))))
def test_feature_map_is_what_the_convolutions_leave(size, last_conv_stride):
    rows = halved(halved(size, 7, 3), 3, 1)
    for _ in range(1 + last_conv_stride):
        rows = halved(rows, 3, 1)
    stride = ModelParams.model_validate({"last_conv_stride": last_conv_stride}).stride
    assert feature_map_size(size, 128, stride) == (rows, 128 // stride)


@pytest.mark.parametrize(("rows", "share"), list(product(range(1, 25), (0.01, 0.1, 0.3, 0.66, 0.9, 0.99))))
def test_no_other_band_is_nearer_to_its_share(rows, share):
    nearest = min(abs(band - share * rows) for band in range(rows + 1))
    assert abs(band_rows(rows, share) - share * rows) == nearest


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"model_params": {"feature_dim": 255, "pcb_n_parts": 4}}, ["model_params.feature_dim: 255 does not divide "
         "into model_params.pcb_n_parts 4; use 252 or 256"]),
        ({"img_h": 250, "model_params": {"feature_dim": 600, "pcb_n_parts": 6}}, ["model_params.pcb_n_parts: 6 stripes "
         "do not divide the 16 rows of the feature map (img_h 250, model_params.last_conv_stride 1); for img_h use 192 "
         "or 288"]),
        ({"img_h": 64, "model_params": {"pcb_n_parts": 4, "last_conv_stride": 2}}, ["model_params.pcb_n_parts: 4 "
         "stripes do not divide the 2 rows of the feature map (img_h 64, model_params.last_conv_stride 2); for img_h "
         "use 128"]),
        ({"model_params": {"feature_global_dim": 1}},
         [f"model_params.feature_global_dim: {NEEDS_STRIPES} model_params.feature_dim"]),
        ({"model_params": PARTS | {"global_own_stage4": True}}, ["model_params.global_own_stage4: needs a global "
         "branch beside stripes; give model_params.feature_global_dim"]),
        ({"model_params": {"global_pooling": "gem"}}, ["model_params.global_pooling: needs a global branch beside "
         "stripes; give model_params.feature_global_dim, or use model_params.part_pooling"]),
        ({"model_params": PARTS | {"global_bn": False}}, ["model_params.global_bn: needs a global branch beside "
         "stripes; give model_params.feature_global_dim, or use model_params.part_bn"]),
        ({"model_params": {"bn_bias": False, "part_bn": False}}, ["model_params.bn_bias: leaves a bias out of a "
         "normalisation that model_params.part_bn false leaves out whole"]),
        ({"model_params": {"feature_mask": "parts"}},
         [f'model_params.feature_mask: "parts" {NEEDS_STRIPES} "global" or "all"']),
        ({"model_params": PARTS | {"feature_mask": "global"}}, ['model_params.feature_mask: "global" needs a global '
         'branch; give model_params.feature_global_dim, or use "parts"']),
        ({"model_params": {"part_feature_erasing": 0.3}},
         [f"model_params.part_feature_erasing: {NEEDS_STRIPES} model_params.global_feature_erasing"]),
        ({"model_params": PARTS | {"global_feature_erasing": 0.3}}, ["model_params.global_feature_erasing: needs a "
         "global branch; give model_params.feature_global_dim, or use model_params.part_feature_erasing"]),
        # 256 pixels are 16 rows, 4 for each stripe.
        ({"model_params": PARTS | {"part_feature_erasing": 0.1}}, ["model_params.part_feature_erasing: "
         f"0.1 of the 4 rows of {STRIPE} is 0 whole rows; a band has 1 to 3"]),
        ({"model_params": PARTS | {"part_feature_erasing": 0.9}}, ["model_params.part_feature_erasing: "
         f"0.9 of the 4 rows of {STRIPE} is 4 whole rows; a band has 1 to 3"]),
        ({"img_h": 64, "model_params": PARTS | {"part_feature_erasing": 0.5}},
         [f"model_params.part_feature_erasing: needs at least 2 rows, and {STRIPE} has 1"]),
        ({"model_params": {"global_feature_erasing": 0.03}}, ["model_params.global_feature_erasing: 0.03 of the 16 "
         "rows of the feature map (img_h) is 0 whole rows; a band has 1 to 15"]),
        ({"model_params": BOTH | {"global_feature_erasing": 0.97}}, ["model_params.global_feature_erasing: 0.97 of the "
         "16 rows of the feature map (img_h) is 16 whole rows; a band has 1 to 15"]),
        ({"model_params": {"random_drop_branches": 1}}, [f"model_params.random_drop_branches: {CHOOSES} 0"]),
        ({"model_params": {"pcb_n_parts": 1, "update_max_loss_branch": True}},
         [f"model_params.update_max_loss_branch: {CHOOSES} 1"]),
        ({"model_params": PARTS | {"update_max_loss_branch": True, "random_drop_branches": 1}},
         ["model_params.update_max_loss_branch: and model_params.random_drop_branches both choose the stripes to "
          "update; use one of them"]),
        ({"model_params": BOTH | {"update_max_loss_branch": True}, "tri_loss_lambda_cls": 0, "tri_loss_margin": 1,
          "batch_sampling_params": "4*2"},
         ["model_params.update_max_loss_branch: chooses by the classification loss, but tri_loss_lambda_cls is 0"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        {"img_h": 384, "model_params": {"feature_dim": 1536, "pcb_n_parts": 6, "feature_global_dim": 256}},
        {"img_h": 369, "model_params": {"feature_dim": 600, "pcb_n_parts": 6}},
        {"model_params": BOTH | {"feature_dim": 0}},
        {"model_params": BOTH | {"global_own_stage4": True, "global_pooling": "gem"}},
        {"model_params": {"feature_mask": "global"}},
        {"model_params": {"feature_mask": "all"}},
        {"model_params": PARTS | {"feature_mask": "all"}},
        {"model_params": PARTS | {"feature_mask": "parts"}},
        {"model_params": BOTH | {"feature_mask": "global"}},
        {"model_params": PARTS | {"part_feature_erasing": 0.3}},
        {"model_params": {"global_feature_erasing": 0.1}},
        {"model_params": BOTH | {"part_feature_erasing": 0.8, "global_feature_erasing": 0.9}},
        {"model_params": PARTS | {"random_drop_branches": 6}},
        {"model_params": {"pcb_n_parts": 2, "update_max_loss_branch": True}},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params
