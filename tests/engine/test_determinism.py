"""No step uses an operation that a GPU cannot compute deterministically, so `deterministic` can be kept."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from data.augmentation.apply import augment
from data.augmentation.params import sample
from data.options import DataAugmentation, RandomErasing
from engine.batches import ExtraBatch, TrainBatch
from engine.step import Stepper
from losses.generated import GeneratedWeights
from models.network import build_network
from models.options import ModelParams
from tests.determinism import OpsSeen
from tests.losses.conftest import draw_teacher, make_criterion
from utils.precision import BF16

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
CLASSES, TEACHER_DIM = 3, 5
STRIPES = {"pcb_n_parts": 2, "feature_dim": 8, "feature_global_dim": 4}
ALL_FEATURES = ("global", "parts", "concat")
MODELS: dict[str, dict[str, Any]] = {
    "average and maximum": STRIPES,
    "maximum and average": STRIPES | {"part_pooling": "max", "global_pooling": "avg"},
    "generalised mean": STRIPES | {"part_pooling": "gem", "global_pooling": "gem"},
    "one feature": {"feature_dim": 0, "part_pooling": "max"},
    "own last stage": STRIPES | {"global_own_stage4": True, "last_conv_stride": 2},
    "erasing and dropout": STRIPES
    | {"part_feature_erasing": 0.5, "global_feature_erasing": 0.3, "pcb_dropout": 0.2, "feature_dropout": 0.2},
    "masks and ReLU": STRIPES | {"feature_mask": "all", "embedding_relu": True, "classifier_bias": True},
    "cosine classifier": STRIPES | {"classifier": "cosine", "part_bn": False},
    "scaled cosine classifier": STRIPES | {"classifier": "cosine", "cosine_scale": 16.0, "bn_bias": False},
    "spectral transform": STRIPES | {"spectral_trans": 0.3},
}
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "triplet": ({}, {"tri_loss_margin": 0.3, "tri_loss_on": ALL_FEATURES}),
    "weighted triplet": (
        {},
        {"tri_loss_margin": "soft_margin", "tri_loss_on": ALL_FEATURES, "tri_loss_adaptive_weight": True},
    ),
    "margin, focal, smoothing": (
        {"classifier": "cosine", "cosine_scale": 16.0},
        {"softmax_margin": (0.1, 0.2), "softmax_margin_step": 1, "focal_gamma": 2.0, "label_smoothing": 0.1},
    ),
    "distillation": ({}, {"lambda_logits": 1.0, "lambda_embedding": 1.0, "teacher_dim": TEACHER_DIM}),
    "stripes drawn": ({}, {"pcb_n_parts": 2, "random_drop_branches": 2}),
    "hardest stripe": ({}, {"update_max_loss_branch": True}),
}


def seen_in_a_step(model: dict[str, Any], losses: dict[str, Any], extra: ExtraBatch | None = None) -> OpsSeen:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (len(LABELS), 3, 64, 32), dtype=torch.uint8)
    options = DataAugmentation(
        pad=2, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, rotation=10, noise=0.1,
        random_erasing=RandomErasing(probability=0.5, fill="random"),
    )  # fmt: skip
    network = build_network(ModelParams(model="resnet_18", **model), CLASSES, (64, 32))
    teacher = draw_teacher(len(LABELS), TEACHER_DIM, CLASSES) if "teacher_dim" in losses else None
    weights = None if extra is None else GeneratedWeights(0.5, 1.0)
    criterion = make_criterion(**losses, sizes=network.sizes, generated=weights)
    parameters = [*network.parameters(), *criterion.parameters()]
    stepper = Stepper(network, criterion, torch.optim.SGD(parameters, 0.01, fused=True), BF16)
    with OpsSeen() as seen:
        draws = sample(options, len(images), 64, 32, 64, 32, torch.Generator())
        pixels = augment(images, draws, options, 64, 32, torch.Generator())
        batch = TrainBatch(pixels, LABELS, teacher, extra, images, [], 0)
        gradients = stepper.backward([batch], 0, spectral=bool(model.get("spectral_trans")), watch=True)
        stepper.update(gradients.finite)
    assert gradients.finite
    assert "convolution_backward" in seen.names
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_every_head(name: str) -> None:
    assert seen_in_a_step(MODELS[name], {}).not_deterministic == set()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name: str) -> None:
    model, losses = LOSSES[name]
    assert seen_in_a_step(STRIPES | model, losses).not_deterministic == set()


@pytest.mark.parametrize("of_somebody", [True, False])
def test_generated_images(of_somebody: bool) -> None:
    sources = torch.tensor([0, 3, 3]) if of_somebody else None
    labels = None if sources is None else LABELS[sources]
    extra = ExtraBatch(torch.randn(3, 3, 64, 32), labels, sources)
    assert seen_in_a_step(STRIPES, {}, extra).not_deterministic == set()


def test_the_search_finds_such_operations_in_a_backward_pass() -> None:
    values = torch.randn(1, 2, 4, 4, requires_grad=True)
    with OpsSeen() as seen:
        F.adaptive_avg_pool2d(values, (2, 1)).sum().backward()
        F.interpolate(values, scale_factor=2, mode="bilinear").sum().backward()
    assert seen.not_deterministic == {"_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward"}
