"""A params file in the predecessor's own words trains once its paths are edited."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Script

PREDECESSOR = {
    "batch_size": 8,
    "data_augmentation": {
        "mirror": "true",
        "colour_jitering": "true",
        "crop_h": 72,
        "crop_w": 36,
        "imagenet_static": "true",
    },
    "epochs": 2,
    "imagenet_pretrain": "false",
    "img_h": 64,
    "img_w": 32,
    "lr": {"base_lr": 0.01, "fc_lr": 0.05, "decay_step": 40, "decay_gamma": 0.1, "warmup_epoch": 1},
    "model_params": {
        "model": "resnet_18",
        "feature_dim": 16,
        "pcb_n_parts": 2,
        "feature_gobal_dim": 8,
        "last_conv_stride": 1,
        "random_drop_branchs": 2,
        "spectral_trans": 0.3,
        "feature_mask": "true",
    },
    "optimizer": "SGD",
    "gpus": "",
    "pretrain_snapshot": "",
    "weight_decay": 0.0005,
    "fine_tune": "false",
    "focal_loss": "true",
    "softmax_only": "false",
    "tri_loss_params": {"margin": 0.16, "lambda_tri": 1.0, "lambda_cls": 1.0, "use_adaptive_weight": "true"},
    "asoftmax_params": {"margin": [0.0, 0.1, 0.3], "scale": 15, "step": 2},
    "batch_sampling_params": {"class_balanced": "true", "P": 4, "K": 2, "batch_size": 8},
    "gan_params": {"input_dim": 100, "ngf": 64, "ndf": 64, "adv_train": "false", "d_update_freq": 1},
    "evaluation_params": {"type": "market_evaluate", "step": 2},
}


def test_it_trains_and_every_old_word_is_noted(script: Script, make_market: Callable[[Path], Path]) -> None:
    market = make_market(script.folder / "market")
    # The two paths such a file names: where the data lies and where runs go.
    params = {**PREDECESSOR, "batches_dir": str(market), "working_dir": str(script.folder / "work")}
    (script.folder / "old.json").write_text(json.dumps(params))
    process = script.succeed("train.py", "--operation", "start_train", "--config_path", "old.json")
    for word in ("epochs", "gpus", "focal_loss", "asoftmax_params", "feature_gobal_dim", "random_drop_branchs"):
        assert f"'{word}'" in process.stderr.replace("model_params.", ""), word
    (run,) = (script.folder / "work").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"softmax_parts", "softmax_parts_spectral", "softmax_global_spectral", "triplet_global"} == set(
        record["losses"]
    ) - {"softmax_global"}
    assert {"spectral_parts_diagonal", "triplet_global_correct", "triplet_global_active"} < set(record["measures"])
    assert record["metrics"]["mAP"] > 0
    resolved = json.loads((run / "params.json").read_text())
    assert resolved["softmax_margin"] == [0.0, 0.1, 0.3]
    assert (resolved["model_params"]["classifier"], resolved["model_params"]["cosine_scale"]) == ("cosine", 15.0)
    assert (resolved["focal_gamma"], resolved["tri_loss_adaptive_weight"]) == (2.0, True)
