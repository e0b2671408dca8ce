"""From every state that a training saves it goes on to the same bits, whatever is trained."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from config.params import Params
from models.network import build_network
from tests.conftest import TINY_PARAMS, Script
from tests.runs import records_of, same_weights, weights_of
from tests.unsupervised.conftest import CLUSTERING
from utils.checkpoint import Checkpoint, load_tensors, save_checkpoint

MODEL = TINY_PARAMS["model_params"]
STEPS_PER_EPOCH = 4
SETTINGS: dict[str, dict[str, Any]] = {
    "stripes, global branch, dropout, erasing": {},
    "two batches a step, adamw": {
        "accumulate_steps": 2,
        "optimizer": "adamw",
        "data_cache": "none",
        "decay_norms_and_biases": False,
        "lr": {"base_lr": 0.001, "fc_lr": 0.001, "bias_factor": 2, "layer_decay": 0.7},
    },
    "the spectral transform sets in": {"model_params": {**MODEL, "spectral_start_epoch": 1}},
    "LightMBN": {
        "img_h": 64,
        "tri_loss_margin": 0,
        "model_params": {"model": "osnet_x0_25", "head": "lightmbn", "feature_dim": 8},
        "multi_similarity": {"weight": 0.5, "on": ["global", "drop", "global2"], "margin": 0.7},
        "evaluation_params": {"type": "market_evaluate", "normalisation": "branch", "flip": True},
    },
    "a transformer": {
        "precision": "bf16",
        "ema_decay": 0.9,
        "model_params": {
            **{"model": "timm:test_vit", "patch_stride": 14, "drop_path": 0.5, "feature_dim": 16},
            **{"pcb_n_parts": 2, "feature_global_dim": 8, "global_own_stage4": True, "camera_embedding": 3.0},
        },
        "lr": {"base_lr": 0.01, "fc_lr": 0.01, "layer_decay": 0.7},
    },
    "a transformer teaches an OSNet": {
        "model_params": {"model": "osnet_x0_25", "feature_dim": 16},
        "distillation": {"teacher": "teacher.pth", "lambda_logits": 1.0, "lambda_embedding": 1.0},
    },
    "clusters, without labels": {
        "tri_loss_lambda_cls": 0,
        "model_params": {**MODEL, "spectral_trans": 0},
        "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "balance": "camera"},
        "clustering_params": {**CLUSTERING, "iterations": STEPS_PER_EPOCH},
    },
    "no evaluation, random order, rmsprop": {
        "batch_sampling_params": "8*1",
        "tri_loss_margin": 0,
        "model_params": {**MODEL, "spectral_trans": 0},
        "optimizer": "rmsprop",
        "lr": {"base_lr": 0.01, "fc_lr": 0.01, "schedule": "cosine", "warmup_steps": 3, "end_factor": 0.01},
        "evaluation_params": {"type": None},
    },
    "bf16, margins by schedule, centers, evaluated every other epoch": {
        "precision": "bf16",
        "clip_grad_norm": 1.0,
        "ema_decay": 0.9,
        "model_params": {**MODEL, "classifier": "cosine", "cosine_scale": 16},
        "softmax_margin": [0.0, 0.2],
        "softmax_margin_step": 3,
        "classification_loss": "arcface",
        "center_loss": {"weight": 0.1, "on": ["global", "parts"]},
        "evaluation_params": {"type": "market_evaluate", "every_epochs": 2, "at_start": False},
    },
}


SLOW = (
    "bf16, margins by schedule, centers, evaluated every other epoch",
    "a transformer",
    "a transformer teaches an OSNet",
    "LightMBN",
    "two batches a step, adamw",
    "the spectral transform sets in",
    "clusters, without labels",
    "no evaluation, random order, rmsprop",
)


def save_teacher(path: Path) -> None:
    """A transformer for images of another size, which knows the identities of the data set."""
    params = Params.model_validate({"img_h": 96, "img_w": 48, "model_params": {"model": "timm:test_vit"}})
    torch.manual_seed(0)
    pids = [*range(3, 13), 20]
    network = build_network(params.model_params, len(pids), (96, 48))
    save_checkpoint(path, Checkpoint(network.state_dict(), params.model_dump(mode="json"), pids, {}))


def train(script: Script, name: str, states: Path, *arguments: str) -> dict[int, Path]:
    """Train to the end; a link to each last.pth that was seen before it was replaced or removed, by its step."""
    last = script.folder / "runs" / name / "last.pth"
    states.mkdir()
    links, seen = list[Path](), set[int]()
    with script.start("train.py", "--sub_working_dir", name, *arguments) as training:
        while training.process.poll() is None:
            link = states / str(len(links))
            with suppress(FileNotFoundError):
                if last.stat().st_ino not in seen:
                    os.link(last, link)
                    seen.add(link.stat().st_ino)
                    links.append(link)
            time.sleep(0.002)
        assert training.process.returncode == 0, training.stderr
    return {load_tensors(link)["step"]: link for link in links}


def resume(script: Script, whole: Path, state: Path, step: int) -> tuple[Path, dict[int, Path]]:
    """Resume from a state, with images kept elsewhere, in a folder of its own; that folder, and the states by step."""
    run = whole.with_name(f"from_{step}")
    run.mkdir()
    params = json.loads((whole / "params.json").read_text())
    params["data_cache"] = "none" if params["data_cache"] == "auto" else "auto"
    (run / "params.json").write_text(json.dumps(params))
    os.link(state, run / "last.pth")
    shutil.copy(whole / "model_best.pth", run)
    return run, train(script, run.name, run.parent / f"states_{step}", "--operation", "resume_train")


@pytest.mark.parametrize(
    "settings", [pytest.param(SETTINGS[name], id=name, marks=[pytest.mark.slow][: name in SLOW]) for name in SETTINGS]
)
def test_every_state_leads_to_the_same_end(
    script: Script, make_market: Callable[[Path], Path], settings: dict[str, Any]
) -> None:
    make_market(script.folder / "market")
    if "distillation" in settings:
        save_teacher(script.folder / "teacher.pth")
    script.write_params(**{"log_every": 3, **settings, "checkpoint": {"every_steps": 1}})
    whole = script.folder / "runs" / "whole"
    states = train(script, "whole", script.folder / "states")
    steps = STEPS_PER_EPOCH // settings.get("accumulate_steps", 1)
    assert len(states) >= 2 * steps - 1
    # After one step, before the first evaluation, and before the last step.
    for wanted in (1, steps, 2 * steps - 1):
        step = min(states, key=lambda step: abs(step - wanted))  # on a busy machine one may not have been seen
        run, again = resume(script, whole, states[step], step)
        for later in again.keys() & states.keys():
            found, expected = load_tensors(again[later])["model"], load_tensors(states[later])["model"]
            assert same_weights(found, expected), (step, later)
        assert same_weights(weights_of(run), weights_of(whole))
        assert records_of(run) == records_of(whole)
