"""Augmentation, network and losses on a GPU: as on the CPU, and without waiting for it."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from data.augmentation.apply import augment
from data.augmentation.normalisation import denormalise, normalise
from data.augmentation.params import sample
from data.options import AutoAugment, DataAugmentation, RandomErasing
from losses.branch_updates import draw_updated_parts
from losses.loss import TeacherOutput
from models.network import build_network
from models.options import ModelParams
from models.sync_bn import SyncBatchNorm
from tests.gpu.conftest import never_waits
from tests.losses.conftest import make_criterion


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 1e-9),
        ({"grayscale": 0.1, "grayscale_patch": {"probability": 0.5}}, 1e-3),
        ({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1, "rotation": 10}, 1e-3),
        # A pixel that is rounded otherwise changes its histogram, and so what others are equalized to.
        ({"auto_augment": {"probability": 1.0}}, 1e-2),
    ],
)
def test_augmentation_on_the_device_equals_that_on_the_cpu(
    changes: dict[str, Any], share: float, device: torch.device
) -> None:
    images = torch.randint(0, 256, (8, 40, 20, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    given = {"pad": 2, "random_erasing": {"probability": 0.5}, "normalisation": "imagenet"}
    options = DataAugmentation.model_validate(given | changes)
    draws = sample(options, 8, 40, 20, 32, 16, torch.Generator().manual_seed(1))
    pixels = augment(images.to(device), draws, options, 32, 16, torch.Generator(device))
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    expected = augment(images, draws, options, 32, 16, torch.Generator())
    # A hair's breadth decides at the edge of a rotated picture, and between two highest channels.
    different = (pixels.cpu() - expected).abs() > 1e-3
    assert different.float().mean() < share


def test_augmentation_never_waits_for_the_device(device: torch.device) -> None:
    images = torch.randint(0, 256, (8, 3, 40, 20), dtype=torch.uint8, device=device)
    options = DataAugmentation(
        pad=2, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, rotation=10, noise=0.1,
        random_erasing=RandomErasing(probability=0.5, fill="noise"), grayscale=0.1, jitter_probability=0.5,
        normalisation="imagenet", auto_augment=AutoAugment(probability=1.0),
    )  # fmt: skip
    generators = [torch.Generator(), torch.Generator(device)]

    def augmented() -> torch.Tensor:
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        draws = sample(options, 16, 40, 20, 32, 16, generators[0]).part(slice(8, 16))
        pixels = augment(images, draws, options, 32, 16, generators[1], torch.bfloat16)
        denormalise(pixels, "imagenet")
        normalise(images, "half")
        return pixels

    first = augmented()
    with never_waits(device):
        second = augmented()
    assert torch.equal(first, second)


def test_a_training_step_gives_the_losses_of_the_cpu(device: torch.device) -> None:
    torch.manual_seed(0)
    # In float64, as a GPU rounds products of float32 further.
    network = build_network(ModelParams(model="resnet_18", feature_dim=16, pcb_n_parts=2, feature_global_dim=8), 4)
    images, labels = torch.randn(8, 3, 64, 32).double(), torch.arange(4).repeat_interleave(2)
    criterion = make_criterion(tri_loss_margin=0.3, tri_loss_on=("global", "parts", "concat"))
    on_cpu = criterion(network.double()(images), labels)
    on_device = criterion(network.to(device)(images.to(device)), labels.to(device))
    for name, loss in on_cpu.losses.items():
        assert on_device.losses[name].item() == pytest.approx(loss.item(), rel=1e-6), name


def test_no_loss_and_no_head_waits_for_the_device(device: torch.device) -> None:
    options = ModelParams(
        model="resnet_18", feature_dim=16, pcb_n_parts=2, feature_global_dim=8, feature_mask="all",
        part_feature_erasing=0.5, global_feature_erasing=0.5, spectral_trans=0.3, part_pooling="gem",
        classifier="cosine", cosine_scale=15.0,
    )  # fmt: skip
    network = build_network(options, 4).to(device)
    criterion = make_criterion(
        tri_loss_margin=0.3, tri_loss_on=("global", "parts", "concat"), tri_loss_adaptive_weight=True,
        softmax_margin=0.3, focal_gamma=2.0, lambda_logits=1.0, lambda_embedding=1.0, sizes=network.sizes,
        teacher_dim=8, random_drop_branches=2, pcb_n_parts=2,
    ).to(device)  # fmt: skip
    images, labels = torch.randn(8, 3, 64, 32).to(device), torch.arange(4).repeat_interleave(2).to(device)
    teacher = TeacherOutput(torch.randn(8, 8).to(device), torch.randn(8, 4).to(device))

    def found(step: int) -> torch.Tensor:
        updated = draw_updated_parts(2, 2, torch.Generator(device).manual_seed(step))
        losses = criterion(network(images, spectral=True), labels, None, teacher, None, updated)
        values = torch.stack(list(losses.losses.values()))
        values.sum().backward()
        return values.detach()

    first = found(0)
    with never_waits(device):
        second = found(1)
    assert torch.stack([first, second]).isfinite().all()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_synchronised_batch_norm_is_batch_norm_and_never_waits_for_the_device(
    momentum: float | None, device: torch.device
) -> None:
    torch.manual_seed(0)
    found = []
    for norm in (torch.nn.BatchNorm2d(6, momentum=momentum).to(device), SyncBatchNorm(6, momentum=momentum).to(device)):
        images = torch.randn(8, 6, 4, 2, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()

        def normalised(norm: torch.nn.Module = norm, images: torch.Tensor = images) -> torch.Tensor:
            output = norm(images)
            (output * output.sin()).sum().backward()
            return output.detach()

        normalised()
        # torch's own reads the number of batches for a mean over all of them.
        may_wait = momentum is None and not isinstance(norm, SyncBatchNorm)
        with nullcontext() if may_wait else never_waits(device):
            output = normalised()
        assert images.grad is not None
        found.append([output, images.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
