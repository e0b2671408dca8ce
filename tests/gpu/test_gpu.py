"""What only a GPU can show. These tests are left out where there is none: `python -m pytest -m gpu` runs them alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.augmentation.apply import augment
from data.augmentation.normalisation import denormalise, normalise
from data.augmentation.params import AugmentParams, sample
from data.options import DataAugmentation, RandomErasing
from losses.branch_updates import draw_updated_parts
from losses.loss import TeacherOutput
from models.network import build_network
from models.options import ModelParams
from tests.conftest import Script
from tests.losses.conftest import make_criterion

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(
    "changes", [{}, {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1, "rotation": 10}]
)
def test_augmentation_on_the_device_equals_that_on_the_cpu(changes: dict[str, float]) -> None:
    images = torch.randint(0, 256, (8, 40, 20, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    options = DataAugmentation.model_validate({"pad": 2, "random_erasing": {"probability": 0.5}} | changes)
    draws = sample(options, 8, 40, 20, 32, 16, torch.Generator("cuda").manual_seed(1))
    pixels = augment(images.cuda(), draws, options, 32, 16, torch.Generator("cuda"))
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    draws = AugmentParams._make(None if numbers is None else numbers.cpu() for numbers in draws)
    expected = augment(images, draws, options, 32, 16, torch.Generator())
    # A hair's breadth decides at the edge of a rotated picture, and between two highest channels.
    different = (pixels.cpu() - expected).abs() > 1e-3
    assert different.float().mean() < (1e-3 if changes else 1e-9)


def test_augmentation_never_waits_for_the_device() -> None:
    images = torch.randint(0, 256, (8, 3, 40, 20), dtype=torch.uint8, device="cuda")
    options = DataAugmentation(
        pad=2, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, rotation=10, noise=0.1,
        random_erasing=RandomErasing(probability=0.5, fill="random"),
    )  # fmt: skip
    generators = [torch.Generator("cuda").manual_seed(seed) for seed in (1, 2)]
    results = []
    try:
        for mode in ("default", "error"):  # the first time sets up libraries, which may wait
            torch.cuda.set_sync_debug_mode(mode)
            for seed, generator in enumerate(generators):
                generator.manual_seed(seed)
            draws = sample(options, 16, 40, 20, 32, 16, generators[0]).part(slice(8, 16))
            results.append(augment(images, draws, options, 32, 16, generators[1], torch.bfloat16))
            denormalise(results[-1], "imagenet")
            normalise(images, "half")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(*results)


def test_a_training_step_gives_the_losses_of_the_cpu() -> None:
    torch.manual_seed(0)
    network = build_network(ModelParams(model="resnet_18", feature_dim=16, pcb_n_parts=2, feature_global_dim=8), 4)
    images, labels = torch.randn(8, 3, 64, 32), torch.arange(4).repeat_interleave(2)
    criterion = make_criterion(tri_loss_margin=0.3, tri_loss_on=("global", "parts", "concat"))
    on_cpu = criterion(network(images), labels)
    on_gpu = criterion(network.cuda()(images.cuda()), labels.cuda())
    for name, loss in on_cpu.losses.items():
        assert on_gpu.losses[name].item() == pytest.approx(loss.item(), rel=2e-2), name


def test_no_loss_and_no_head_waits_for_the_device() -> None:
    options = ModelParams(
        model="resnet_18", feature_dim=16, pcb_n_parts=2, feature_global_dim=8, feature_mask="all",
        part_feature_erasing=0.5, global_feature_erasing=0.5, spectral_trans=0.3, part_pooling="gem",
        classifier="cosine", cosine_scale=15.0,
    )  # fmt: skip
    network = build_network(options, 4).cuda()
    criterion = make_criterion(
        tri_loss_margin=0.3, tri_loss_on=("global", "parts", "concat"), tri_loss_adaptive_weight=True,
        softmax_margin=0.3, focal_gamma=2.0, lambda_logits=1.0, lambda_embedding=1.0, embedding_dim=24, teacher_dim=8,
        random_drop_branches=2, pcb_n_parts=2,
    ).cuda()  # fmt: skip
    images, labels = torch.randn(8, 3, 64, 32).cuda(), torch.arange(4).repeat_interleave(2).cuda()
    teacher = TeacherOutput(torch.randn(8, 8).cuda(), torch.randn(8, 4).cuda())
    losses = []
    try:
        for step in range(2):  # the first one sets up libraries, which may wait
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            updated = draw_updated_parts(2, 2, torch.Generator("cuda").manual_seed(step))
            losses.append(criterion(network(images, spectral=True), labels, None, teacher, None, updated))
            torch.stack([*losses[-1].losses.values()]).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.stack(list(each.losses.values())).isfinite().all() for each in losses)


def test_the_scripts_train_and_evaluate_on_the_gpu(script: Script, make_market: Callable[[Path], Path]) -> None:
    make_market(script.folder / "market")
    script.write_params()
    process = script.run("train.py", "--operation", "start_train", "--sub_working_dir", "run")
    assert process.returncode == 0, process.stderr
    assert "computing on GPU 0" in process.stderr
    records = [json.loads(line) for line in (script.folder / "runs/run/metrics.jsonl").read_text().splitlines()]
    (script.folder / "eval_params.json").write_text('{"result_log_file": "result.json"}')
    process = script.run("evaluator.py", "eval_params.json")
    assert process.returncode == 0, process.stderr
    best = max((record["metrics"] for record in records), key=lambda metrics: metrics["mAP"])
    assert json.loads((script.folder / "result.json").read_text())["metrics"] == pytest.approx(best, abs=1e-4)
