"""The section `gan_params`: the person generator, how it is trained, and its part in training a re-ID network."""

from typing import Annotated, Literal

from pydantic import Field

from data.augmentation.differentiable import DifferentiableChange
from losses.adversarial import AdversarialLoss
from models.options import GeneratorOptions

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class GanParams(GeneratorOptions):
    """A generator of person images, for train_gan and, with adv_train or mix_ratio, for re-ID training."""

    epoch: int = Field(default=12, ge=1)
    """Epochs of train_gan."""
    batch_size: int = Field(default=32, ge=2)
    """Real images, and as many generated ones, in each update."""
    lr: float = Field(default=2e-4, gt=0.0)
    """Learning rate of the generator (Adam)."""
    lr_d: float = Field(default=4e-4, gt=0.0)
    """Learning rate of the discriminator."""
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    """Adam's betas, for both networks."""
    d_update_freq: int = Field(default=1, ge=1)
    """Discriminator updates per generator update."""
    preheat_steps: int = Field(default=0, ge=0)
    """Steps at the start that train only the discriminator."""
    loss: AdversarialLoss = "hinge"
    """Hinge (Lim and Ye 2017), non-saturating (Goodfellow et al. 2014) or Wasserstein loss (Arjovsky et al. 2017)."""
    penalty: Literal["r1", "wgan_gp", "none"] = "r1"
    """Gradient penalty: R1 on real images (Mescheder et al. 2018) or WGAN-GP in between (Gulrajani et al. 2017)."""
    penalty_weight: float = Field(default=0.1, gt=0.0)
    """Weight of the penalty: half the squared gradient norm for R1, (norm - 1)^2 for WGAN-GP."""
    penalty_every: int = Field(default=16, ge=1)
    """Discriminator updates between penalties, each of which counts this many times (Karras et al. 2020)."""
    augmentation: tuple[DifferentiableChange, ...] = ("translation",)
    """Augmentation of all images for the discriminator (Zhao et al. 2020), against overfitting on small data sets."""
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the moving average of the generator's weights, with which samples are made."""
    measured_by: str = "inception"
    """Network for FID: a re-ID run folder or checkpoint, "inception" (torchvision), or "none" = not measured."""
    measure_epochs: int = Field(default=3, ge=1)
    """Epochs between measurements, always after the last one too; the generator with the best FID is kept."""
    num_measured: int = Field(default=2048, ge=6)
    """Generated images per measurement."""
    adv_train: bool = False
    """Train a generator along with the re-ID network, one step per batch; mix_ratio of its images are used."""
    mix_ratio: float = Field(default=0.0, ge=0.0, le=4.0)
    """Generated images per real image in the batches of re-ID training; 0 = none."""
    mix_start_epoch: int = Field(default=0, ge=0)
    """Epochs of re-ID training before generated images are used."""
    lambda_consistency: float = Field(default=0.0, ge=0.0)
    """Weight of the distance between the embeddings of a generated image and of its source image."""
