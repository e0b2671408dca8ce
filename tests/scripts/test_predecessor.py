"""The predecessor's own params files train and evaluate once their paths are edited."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Script

# Every key of its last params.json, for a tiny network and small images.
PREDECESSOR: dict[str, Any] = {
    "asoftmax_params": {"margin": [0.0, 0.1, 0.3], "step": 2, "unlabel_fold": 0, "unlabel_update": 0, "scale": 15},
    "batch_sampling_params": {"K": 2, "P": 4, "batch_size": 64, "class_balanced": True, "softmax_only": False},
    "data_augmentation": {
        "colour_jitering": "true", "crop_h": 64, "crop_w": 32, "padding_h": 10, "padding_w": 5, "mirror": "true",
        "random_erasing": True, "gaussian_noise": False, "imagenet_static": True, "rotation": 0,
    },
    "epochs": 1.0,
    "evaluation_params": {"type": "market_evaluate", "step": None, "epoch": 2},
    "fine_tune": "false",
    "focal_loss": True,
    "imagenet_pretrain": False,
    "img_h": 72,
    "img_w": 36,
    "lr": {"base_lr": 0.01, "decay_gamma": 0.1, "decay_step": [1, 2], "warmup_epoch": 1, "fc_lr": 0.05},
    "model_params": {
        "feature_dim": 16, "model": "resnet_18", "pcb_n_parts": 2, "random_drop_branchs": 2, "last_conv_stride": 1,
        "spectral_trans": 0.3, "feature_mask": True, "feature_gobal_dim": 8,
    },
    "gan_params": {
        "input_dim": 0, "batch_size": 128, "adv_train": False, "alone_train": True, "lr": 0.0002, "beta1": 0.0,
        "ngf": 64, "ndf": 32, "preheating": 0, "pretrain_snapshot_d": "", "pretrain_snapshot_g": "",
        "d_update_freq": 1.0,
    },
    "num_preprocess_workers": 8,
    "optimizer": "SGD",
    "parallels": [],
    "pretrain_snapshot": "",
    "tri_loss_params": {"margin": 0.16, "use_adaptive_weight": "true", "lambda_tri": 1, "lambda_cls": 1},
    "weight_decay": 0.0005,
}  # fmt: skip
NOTED = (
    "asoftmax_params", "batch_size", "softmax_only", "colour_jitering", "crop_h", "padding_h", "random_erasing",
    "gaussian_noise", "imagenet_static", "epochs", "step", "epoch", "focal_loss", "feature_gobal_dim", "gan_params",
    "random_drop_branchs", "num_preprocess_workers", "optimizer", "margin", "use_adaptive_weight", "decay_step",
)  # fmt: skip
EVALUATION: dict[str, Any] = {
    "batch_size": 512,
    "gpus": [],
    "img_h": 256,
    "img_w": 32,
    "model_params": {"feature_dim": 16, "model": "resnet_18", "pcb_n_parts": 2, "last_conv_stride": 1},
    "feature_path": "",
    "spectral_transform": 0.7,
    "model_path": "work/run/model_best.pth",
    "benchmark_type": "market_evaluate",
    "result_log_file": "result.log",
}


def test_they_train_and_evaluate_and_every_old_word_is_noted(
    script: Script, make_market: Callable[[Path], Path]
) -> None:
    market = make_market(script.folder / "market")
    # The two paths such a file names: where the data lies and where runs go.
    params = {**PREDECESSOR, "batches_dir": str(market), "working_dir": str(script.folder / "work")}
    (script.folder / "old.json").write_text(json.dumps(params))
    process = script.succeed("train.py", "--config_path", "old.json", "--sub_working_dir", "run")
    for word in NOTED:
        assert re.search(rf"'(\w+\.)?{word}' ", process.stderr), word
    run = script.folder / "work" / "run"
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"softmax_parts", "softmax_parts_spectral", "softmax_global_spectral", "triplet_global"} == set(
        record["losses"]
    ) - {"softmax_global"}
    assert {"spectral_parts_diagonal", "triplet_global_correct", "triplet_global_active"} < set(record["measures"])
    assert record["metrics"]["mAP"] > 0
    resolved = json.loads((run / "params.json").read_text())
    assert (resolved["img_h"], resolved["data_augmentation"]["resize_h"]) == (64, 72)
    assert resolved["data_augmentation"]["pad"] == [10, 5]
    assert (resolved["batch_size"], resolved["evaluation_params"]["every_epochs"]) == (None, 2)
    assert resolved["softmax_margin"] == [0.0, 0.1, 0.3]
    assert (resolved["model_params"]["classifier"], resolved["model_params"]["cosine_scale"]) == ("cosine", 15.0)
    assert (resolved["focal_gamma"], resolved["tri_loss_adaptive_weight"]) == (2.0, True)

    (script.folder / "old_eval.json").write_text(json.dumps(EVALUATION))
    process = script.succeed("evaluator.py", "old_eval.json")
    assert "model_best.pth has img_h 64 instead of 256; the checkpoint decides" in process.stderr
    result = json.loads((script.folder / "result.log").read_text())
    assert result["evaluation_params"]["re_ranking"] == "spectral"
    assert result["evaluation_params"]["batch_size"] == 512
