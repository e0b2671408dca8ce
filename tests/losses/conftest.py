"""Criteria from the options that differ from their defaults, and outputs of networks as random leaf tensors."""

from typing import Any

import torch
from torch import Tensor

from losses.criterion import Criterion, build_criterion
from losses.loss import TeacherOutput
from losses.options import Distillation, LossOptions
from models.options import ModelParams
from models.outputs import BranchOutput, ClassScores, NetworkSizes, SpectralOutput


def make_criterion(**settings: Any) -> Criterion:
    """Options of the losses, of the distillation and of the updated stripes by name; arguments of build_criterion."""
    arguments = {name: settings.pop(name) for name in ("sizes", "teacher_dim", "generated", "seed") if name in settings}
    model, taught = (
        {name: settings.pop(name) for name in options.model_fields if name in settings}
        for options in (ModelParams, Distillation)
    )
    options = LossOptions(**settings, distillation=Distillation(**taught))
    return build_criterion(options, ModelParams(**model), **arguments)


def draw_output(
    sizes: NetworkSizes, images: int = 6, *, spectral: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, BranchOutput]:
    """Leaf tensors, so that gradients can be read off; of a cosine classifier with positive scales."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    def scores(parts: int) -> ClassScores:
        scale = (0.5 + torch.rand(parts, images, generator=generator)).to(dtype).requires_grad_()
        return ClassScores(draw(parts, images, sizes.num_classes), scale)

    def branch(parts: int, dim: int) -> BranchOutput:
        diagonal = torch.rand((), generator=generator).requires_grad_()
        output = BranchOutput(draw(parts, images, dim), draw(parts, images, dim), scores(parts))
        return output._replace(spectral=SpectralOutput(scores(parts), diagonal)) if spectral else output

    return {name: branch(*size) for name, size in sizes.branches.items()}


def draw_teacher(images: int, dim: int, num_classes: int, seed: int = 1) -> TeacherOutput:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(images, dim, generator=generator)
    return TeacherOutput(embeddings, torch.randn(images, num_classes, generator=generator))


def leaves_of(branch: BranchOutput) -> dict[str, Tensor]:
    """The tensors of an output that losses see, by name."""
    scores = (
        {"": branch.scores} if branch.spectral is None else {"": branch.scores, "spectral ": branch.spectral.scores}
    )
    leaves = {"features": branch.features, "embeddings": branch.embeddings}
    for name, (logits, scale) in scores.items():
        assert scale is not None
        leaves |= {f"{name}logits": logits, f"{name}scale": scale}
    return leaves
