"""A whole file of the predecessor's, in which each of its spellings occurs."""

from config.legacy import SPELLINGS

OLD = {
    "batches_dir": "datasets/market",
    "batch_sampling_params": {"class_balanced": "true", "P": 32, "K": 2, "batch_size": 64},
    "data_augmentation": {
        "mirror": "true",
        "pad": 10,
        "colour_jitering": "true",
        "crop_h": 416,
        "crop_w": 144,
        "imagenet_static": "true",
    },
    "epochs": 60,
    "imagenet_pretrain": "true",
    "img_h": 384,
    "img_w": 128,
    "lr": {"base_lr": 0.01, "fc_lr": 0.1, "decay_step": 8000, "decay_gamma": 0.1, "warmup_epoch": 20},
    "model_params": {
        "model": "resnet_50",
        "feature_dim": 1536,
        "pcb_n_parts": 6,
        "feature_gobal_dim": 256,
        "last_conv_stride": 1,
        "random_drop_branchs": 6,
        "spectral_trans": "false",
        "feature_mask": "true",
    },
    "optimizer": "SGD",
    "gpus": "0",
    "pretrain_snapshot": "",
    "weight_decay": 5e-4,
    "fine_tune": "false",
    "evaluation_params": {"type": "market_evalute", "step": 5},
    "working_dir": "runs",
    "tri_loss_params": {"margin": 0.16, "lambda_tri": 1, "lambda_cls": 1, "use_adaptive_weight": "true"},
    "asoftmax_params": {"margin": [0, 0.1, 0.3], "scale": 15, "step": 1000},
    "softmax_only": "false",
    "focal_loss": "true",
    "gan_params": {"input_dim": 100, "ngf": 64, "ndf": 64, "adv_train": "false", "d_update_freq": 2, "preheating": 500},
}
NEW = {
    "batches_dir": "datasets/market",
    "batch_sampling_params": "32*2",
    "batch_size": 64,
    "data_augmentation": {
        "mirror": True,
        "pad": 10,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "resize_h": 416,
        "resize_w": 144,
        "normalisation": "imagenet",
    },
    "epoch": 60,
    "imagenet_pretrain": True,
    "img_h": 384,
    "img_w": 128,
    "lr": OLD["lr"],
    "model_params": {
        "model": "resnet_50",
        "feature_dim": 1536,
        "pcb_n_parts": 6,
        "feature_global_dim": 256,
        "last_conv_stride": 1,
        "random_drop_branches": 6,
        "spectral_trans": 0,
        "feature_mask": "all",
        "classifier": "cosine",
        "cosine_scale": 15,
    },
    "optimizer": "sgd",
    "parallels": [0],
    "pretrain_snapshot": "",
    "weight_decay": 5e-4,
    "fine_tune": False,
    "evaluation_params": {"type": "market_evaluate", "every_epochs": 5},
    "working_dir": "runs",
    "tri_loss_margin": 0.16,
    "tri_loss_lambda_tri": 1,
    "tri_loss_lambda_cls": 1,
    "tri_loss_adaptive_weight": True,
    "softmax_margin": [0, 0.1, 0.3],
    "softmax_margin_step": 1000,
    "focal_gamma": 2,
    "gan_params": {
        "input_dim": 100,
        "ngf": 64,
        "ndf": 64,
        "adv_train": False,
        "d_update_freq": 2,
        "preheat_steps": 500,
    },
}
# A file has one of each pair.
OTHER_SPELLINGS = {"data_augmentation.colour_jittering"}
NAMED = {spelling.old for spelling in SPELLINGS} - OTHER_SPELLINGS
TEXTS = {
    "batch_sampling_params.class_balanced",
    "data_augmentation.mirror",
    "imagenet_pretrain",
    "fine_tune",
    "tri_loss_params.use_adaptive_weight",
    "gan_params.adv_train",
}


def test_it_means_what_it_says_in_our_words(desk):
    assert desk.load(OLD).params == desk.load(NEW).params


def test_every_spelling_has_its_note(desk):
    notes = desk.load(OLD).notes
    named = [note.split("'")[1] for note in notes if "the predecessor" in note]
    assert sorted(named) == sorted(NAMED)
    texts = [note.split("'")[1] for note in notes if note.endswith("without quotes")]
    assert sorted(texts) == sorted(TEXTS)
    assert len(notes) == len(named) + len(texts)


def test_our_own_words_have_none(desk):
    assert desk.load(NEW).notes == ()
