"""Adversarial losses of generator and discriminator, and gradient penalties."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import at_least_fp32

AdversarialLoss = Literal["non_saturating", "hinge", "wgan"]


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor, kind: AdversarialLoss) -> Tensor:
    """Loss of the discriminator: real images should score high, generated ones low.

    Args:
        real_scores, fake_scores: (B,) each, before any sigmoid.
        kind: "non_saturating": binary cross entropy, a score is the logit of "real"; "hinge": zero beyond scores of 1
            for real and -1 for generated images; "wgan": minus the critic's estimate of the Wasserstein distance, to be
            combined with a gradient penalty.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: unknown kind.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, equation 1; Lim and Ye 2017, arXiv 1705.02894, section 3.1;
    Arjovsky et al. 2017, arXiv 1701.07875, equation 3.
    """
    real, fake = at_least_fp32(real_scores), at_least_fp32(fake_scores)
    match kind:
        case "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case "non_saturating":
            return F.softplus(-real).mean() + F.softplus(fake).mean()
        case "wgan":
            return fake.mean() - real.mean()
        case _:
            raise ValueError(f"unknown adversarial loss {kind!r}; allowed: {', '.join(get_args(AdversarialLoss))}")


def generator_loss(fake_scores: Tensor, kind: AdversarialLoss) -> Tensor:
    """Loss of the generator: its images should score as high as real ones.

    Args:
        fake_scores: (B,), before any sigmoid.
        kind: as for `discriminator_loss`. The non-saturating loss is -log D(fake) instead of log(1 - D(fake)), whose
            gradient vanishes while the discriminator wins easily.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: unknown kind.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, section 3; Lim and Ye 2017, arXiv 1705.02894; Arjovsky et al. 2017,
    arXiv 1701.07875.
    """
    fake = at_least_fp32(fake_scores)
    match kind:
        case "non_saturating":
            return F.softplus(-fake).mean()
        case "hinge" | "wgan":
            return -fake.mean()
        case _:
            raise ValueError(f"unknown adversarial loss {kind!r}; allowed: {', '.join(get_args(AdversarialLoss))}")


def gradient_penalty_r1(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the scores with respect to the images; R1 is gamma / 2 times this.

    Args:
        scores: (B,), each computed from its own image only (so without batch normalisation).
        images: (B, 3, H, W), the real ones, with requires_grad.

    Returns:
        Scalar, at least float32, differentiable with respect to the discriminator's weights.

    Raises:
        ValueError: not one score per image.

    Source: Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """
    return _gradients(scores, images).square().sum(1).mean()


def gradient_penalty_wgan(scores: Tensor, images: Tensor) -> Tensor:
    """Mean of (gradient norm of the score - 1)^2, unweighted; the paper's weight is 10.

    Where the gradient is zero, the penalty is 1 and its own gradient zero.

    Args, returns and raises are those of `gradient_penalty_r1`; the images are interpolated ones.

    Source: Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    # vector_norm has gradient zero at zero, where that of the square root is infinite.
    return (torch.linalg.vector_norm(_gradients(scores, images), dim=1) - 1).square().mean()


def interpolated(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """A random point on the line between each real and a generated image.

    Args:
        real, fake: (B, 3, H, W) each, of the same dtype; neither gets a gradient.
        generator: draws one uniform number per image; on the images' device.

    Returns:
        (B, 3, H, W), a leaf that requires grad.

    Raises:
        ValueError: different shapes.

    Source: Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and generated images must have one shape, got {(*real.shape,)} and {(*fake.shape,)}")
    shares = torch.rand((len(real), 1, 1, 1), generator=generator, device=generator.device).to(real.dtype)
    return torch.lerp(fake.detach(), real.detach(), shares).requires_grad_()


def _gradients(scores: Tensor, images: Tensor) -> Tensor:
    """Gradient of every score with respect to its image: (B, 3 * H * W), differentiable."""
    if scores.shape != images.shape[:1]:
        raise ValueError(f"gradient penalty: {len(images)} images need as many scores, got {(*scores.shape,)}")
    # The gradient of the sum is that of each score, as a score depends on its own image only.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return at_least_fp32(gradients).flatten(1)
