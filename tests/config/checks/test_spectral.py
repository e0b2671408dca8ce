"""The spectral transform: settings that do not go together, and neighbours of theirs that do."""

import pytest

SPECTRAL = {"batch_sampling_params": "8*4", "model_params": {"spectral_trans": 0.3}}
NOT_ON = "says when the spectral transform starts, but model_params.spectral_trans is 0; leave this out"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (SPECTRAL | {"batch_sampling_params": "32*1"}, ["model_params.spectral_trans: needs "
         'batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here']),
        (SPECTRAL | {"batch_sampling_params": {"class_balanced": True, "K": 1}},
         ["model_params.spectral_trans: needs batch_sampling_params.K of at least 2: with one image per class there is "
          "nothing to mix"]),
        (SPECTRAL | {"tri_loss_lambda_cls": 0, "tri_loss_margin": 1},
         ["model_params.spectral_trans: needs the classification loss, but tri_loss_lambda_cls is 0"]),
        ({"model_params": {"spectral_start_epoch": 1, "spectral_start_accuracy": 0.5}},
         [f"model_params.spectral_start_epoch: {NOT_ON}", f"model_params.spectral_start_accuracy: {NOT_ON}"]),
        (SPECTRAL | {"epoch": 5, "model_params": {"spectral_trans": 0.3, "spectral_start_epoch": 5}},
         ["model_params.spectral_start_epoch: 5 leaves the spectral transform no epoch of the training, epoch 5"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        SPECTRAL,
        {"batch_sampling_params": {"class_balanced": True, "K": 2}, "model_params": {"spectral_trans": 1}},
        {
            **SPECTRAL,
            "epoch": 5,
            "model_params": {"spectral_trans": 0.3, "spectral_start_epoch": 4, "spectral_start_accuracy": 0.9},
        },
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params
