"""The person generator: settings that do not go together, and neighbours of theirs that do."""

import pytest

MIXED = {"mix_ratio": 0.5, "pretrain_snapshot_g": "gan"}
ALONG = {"mix_ratio": 0.5, "adv_train": True}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"gan_params": {"adv_train": True}}, ["gan_params.adv_train: trains a generator along, but "
         "gan_params.mix_ratio is 0, so none of its images is used; set that above 0"]),
        ({"gan_params": {"mix_ratio": 0.5}}, ["gan_params.mix_ratio: needs a generator: name one that train_gan made "
         "as gan_params.pretrain_snapshot_g, or set gan_params.adv_train to true"]),
        ({"batch_size": 8, "gan_params": MIXED | {"mix_ratio": 0.0625}},
         ["gan_params.mix_ratio: gives no image to a batch of 8; set it to at least 0.125"]),
        ({"batch_sampling_params": "4*4", "batch_size": 16, "gan_params": MIXED | {"mix_ratio": 0.03}},
         ["gan_params.mix_ratio: gives no image to a batch of 16; set it to at least 0.0625"]),
        ({"epoch": 3, "gan_params": MIXED | {"mix_start_epoch": 3}},
         ["gan_params.mix_start_epoch: 3 leaves no epoch of 3 for generated images"]),
        ({"gan_params": {"mix_start_epoch": 3, "lambda_consistency": 0.5}},
         ["gan_params.mix_start_epoch: is for generated images, but gan_params.mix_ratio is 0",
          "gan_params.lambda_consistency: is for generated images, but gan_params.mix_ratio is 0"]),
        ({"gan_params": ALONG | {"lambda_consistency": 0.5}}, ["gan_params.lambda_consistency: compares a generated "
         "image to the one it was made from; that needs gan_params.condition"]),
        ({"tri_loss_lambda_cls": 0, "tri_loss_margin": 0.3, "batch_sampling_params": "4*2", "gan_params": MIXED},
         ["gan_params.mix_ratio: generated images are for the classification loss, but tri_loss_lambda_cls is 0"]),
        ({"batch_sampling_params": "4*2", "model_params": {"spectral_trans": 0.3}, "gan_params": MIXED},
         ["gan_params.mix_ratio: the spectral transform would mix generated images into the embeddings of real ones; "
          "set one of them to 0"]),
        ({"parallels": [0, 1], "gan_params": ALONG}, ["gan_params.adv_train: trains the generator on one device, but "
         "parallels names 2; train it before with train_gan, and name it as gan_params.pretrain_snapshot_g"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together(desk, content, lines):
    assert desk.conflicts(content) == lines


@pytest.mark.parametrize(
    "content",
    [
        {"gan_params": MIXED},
        {"gan_params": ALONG},
        {"gan_params": ALONG | {"pretrain_snapshot_g": "gan", "pretrain_snapshot_d": "gan"}},
        {"gan_params": MIXED | {"lambda_consistency": 0.5}},  # the snapshot says by what it is conditioned
        {"gan_params": ALONG | {"lambda_consistency": 0.5, "condition": "run"}},
        {"batch_size": 8, "gan_params": MIXED | {"mix_ratio": 0.07}},
        {"epoch": 3, "gan_params": MIXED | {"mix_start_epoch": 2}},
        {"parallels": [0, 1], "gan_params": MIXED},
        {"parallels": [1], "gan_params": ALONG},
        {"tri_loss_lambda_cls": 0, "tri_loss_margin": 0.3, "batch_sampling_params": "4*2"},
        {"batch_sampling_params": "4*2", "model_params": {"spectral_trans": 0.3}},
        # For train_gan, whatever a re-ID training would make of it.
        {"gan_params": {"condition": "run", "pretrain_snapshot_g": "gan", "measured_by": "none"}},
    ],
)
def test_what_goes_together(desk, content):
    assert desk.load(content).params


@pytest.mark.parametrize(
    ("gan", "line"),
    [
        ({"mix_ratio": -0.1}, "gan_params.mix_ratio: expected a number of at least 0, got -0.1"),
        ({"img_h": 100}, "gan_params.img_h: "),
        ({"betas": [0.0, 1.0]}, "gan_params.betas"),
        ({"loss": "hing"}, "gan_params.loss: "),
        ({"penalty": "r2"}, "gan_params.penalty: "),
        ({"augmentation": ["colour", "rotation"]}, "gan_params.augmentation"),
        ({"num_measured": 5}, "gan_params.num_measured: expected a number of at least 6, got 5"),
        ({"ema_decay": 1.0}, "gan_params.ema_decay: expected a number below 1, got 1"),
        ({"mix_rati": 1.0}, "gan_params.mix_rati: unknown key; did you mean 'mix_ratio'?"),
        ({"lr": 0}, "gan_params.lr: expected a number above 0, got 0"),
    ],
)
def test_what_no_generator_can_have_is_told(desk, gan, line):
    (found,) = desk.conflicts({"gan_params": gan})
    assert found.startswith(line)
