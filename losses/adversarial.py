"""Losses of a generator and the discriminator it plays against, and the gradient penalties that steady the game."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import at_least_fp32

AdversarialLoss = Literal["non_saturating", "hinge", "wgan"]


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor, kind: AdversarialLoss) -> Tensor:
    """What the discriminator lowers: real images are to score high, generated ones low.

    Args:
        real_scores, fake_scores: (B,) each, before any sigmoid.
        kind: "non_saturating": cross entropy of real against generated, a score being the logit of real; "hinge": real
            images are to score above 1 and generated ones below -1, and beyond that nothing is gained;
            "wgan": minus the critic's estimate of the Wasserstein distance, which needs a gradient penalty beside it.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: unknown kind, or scores that are not one number per image.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, equation 1; Lim and Ye 2017, arXiv 1705.02894, section 3.1;
    Arjovsky et al. 2017, arXiv 1701.07875, equation 3.
    """
    real, fake = _checked(real_scores), _checked(fake_scores)
    match kind:
        case "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case "non_saturating":
            return F.softplus(-real).mean() + F.softplus(fake).mean()
        case "wgan":
            return fake.mean() - real.mean()
        case _:
            raise _unknown(kind)


def generator_loss(fake_scores: Tensor, kind: AdversarialLoss) -> Tensor:
    """What the generator lowers: its images are to score as high as real ones.

    Args:
        fake_scores: (B,), before any sigmoid.
        kind: as for `discriminator_loss`. The non-saturating one is -log of the probability of real, not
            log(1 - it): its gradient stays large while the discriminator still wins easily.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: unknown kind, or scores that are not one number per image.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, section 3; Lim and Ye 2017, arXiv 1705.02894 (the hinge has no
    part in it); Arjovsky et al. 2017, arXiv 1701.07875.
    """
    fake = _checked(fake_scores)
    match kind:
        case "non_saturating":
            return F.softplus(-fake).mean()
        case "hinge" | "wgan":
            return -fake.mean()
        case _:
            raise _unknown(kind)


def gradient_penalty_r1(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over images of the squared norm of the score's gradient, without any weight: R1 is gamma / 2 times this.

    Args:
        scores: (B,), of `images`; each must depend on its own image alone, which batch norm would break.
        images: (B, 3, H, W), the real ones, with requires_grad since before they were scored.

    Returns:
        Scalar, at least float32, that can be differentiated with respect to the discriminator's weights.

    Raises:
        ValueError: not one score per image, or scores that no gradient leads from.

    Source: Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """
    return _gradients(scores, images).square().sum(1).mean()


def gradient_penalty_wgan(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over images of (norm of the score's gradient - 1)^2, without any weight; the paper's is 10.

    Where a gradient is zero the norm has no slope: the penalty is 1 there and gives the weights no gradient.

    Args:
        scores: (B,), of `images`; each must depend on its own image alone, which batch norm would break.
        images: (B, 3, H, W), from `interpolated`.

    Returns:
        Scalar, at least float32, that can be differentiated with respect to the critic's weights.

    Raises:
        ValueError: not one score per image, or scores that no gradient leads from.

    Source: Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    # vector_norm takes zero as its slope at zero, where that of the square root would be infinite.
    return (torch.linalg.vector_norm(_gradients(scores, images), dim=1) - 1).square().mean()


def interpolated(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """A point on the line between each real and a generated image, where the critic's slope is to be 1.

    Args:
        real, fake: (B, 3, H, W) each, of the same dtype; neither gets a gradient.
        generator: source of the one uniform number per image, on the images' device.

    Returns:
        (B, 3, H, W), a leaf that requires grad.

    Raises:
        ValueError: the two differ in shape.

    Source: Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and generated images must have one shape, got {(*real.shape,)} and {(*fake.shape,)}")
    shares = torch.rand((len(real), 1, 1, 1), generator=generator, device=generator.device).to(real.dtype)
    return torch.lerp(fake.detach(), real.detach(), shares).requires_grad_()


def _gradients(scores: Tensor, images: Tensor) -> Tensor:
    """The gradient of every image's score with respect to that image: (B, 3 * H * W), part of the graph."""
    if scores.shape != images.shape[:1]:
        raise ValueError(f"gradient penalty: {len(images)} images need as many scores, got {(*scores.shape,)}")
    if not (images.requires_grad and scores.requires_grad):
        raise ValueError("gradient penalty: no gradient leads from the scores; set requires_grad before scoring")
    # One pass for all: the sum's gradient is that of each score, as a score depends on its own image alone.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return at_least_fp32(gradients).flatten(1)


def _checked(scores: Tensor) -> Tensor:
    """Scores (B,) in at least float32."""
    if scores.dim() != 1 or not len(scores):
        raise ValueError(f"adversarial loss: scores must be one number per image, got shape {(*scores.shape,)}")
    return at_least_fp32(scores)


def _unknown(kind: str) -> ValueError:
    """For a kind of loss that there is not."""
    return ValueError(f"adversarial loss: unknown kind, got {kind!r}; allowed: {', '.join(get_args(AdversarialLoss))}")
