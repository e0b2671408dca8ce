"""The section `gan_params`: the person generator, how it is trained, and its part in training a re-ID network."""

from typing import Annotated, Literal

from pydantic import Field

from data.augmentation.differentiable import DifferentiableChange
from losses.adversarial import AdversarialLoss
from models.options import GeneratorOptions

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class GanParams(GeneratorOptions):
    """A generator of persons: for train_gan, and with adv_train or mix_ratio in the training of a re-ID network."""

    epoch: int = Field(default=12, ge=1)
    """Epochs of train_gan."""
    batch_size: int = Field(default=32, ge=2)
    """Real images, and as many generated ones, that each update sees."""
    lr: float = Field(default=2e-4, gt=0.0)
    """Learning rate of the generator (Adam)."""
    lr_d: float = Field(default=4e-4, gt=0.0)
    """Learning rate of the discriminator."""
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    """Adam's averaging of gradients and of their squares, for both."""
    d_update_freq: int = Field(default=1, ge=1)
    """Updates of the discriminator for each of the generator's."""
    preheat_steps: int = Field(default=0, ge=0)
    """Steps at the start in which only the discriminator learns."""
    loss: AdversarialLoss = "hinge"
    """Hinge (Lim and Ye 2017), non-saturating (Goodfellow et al. 2014) or Wasserstein loss (Arjovsky et al. 2017)."""
    penalty: Literal["r1", "wgan_gp", "none"] = "r1"
    """Gradient penalty: R1 on real images (Mescheder et al. 2018) or WGAN-GP in between (Gulrajani et al. 2017)."""
    penalty_weight: float = Field(default=0.1, gt=0.0)
    """Weight of the penalty: of the squared gradient's half for R1, of the square of its excess for WGAN-GP."""
    penalty_every: int = Field(default=16, ge=1)
    """Updates of the discriminator from one penalty to the next, each weighted so much more (Karras et al. 2020)."""
    augmentation: tuple[DifferentiableChange, ...] = ("translation",)
    """Changes of all images the discriminator sees (Zhao et al. 2020), against learning a small set by heart."""
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    """What each step leaves of the moving average of the generator's weights, which the samples are of."""
    measured_by: str = "inception"
    """What FID compares by: a re-ID run folder or checkpoint, "inception" (torchvision's), "none" = not measured."""
    measure_epochs: int = Field(default=3, ge=1)
    """Measure the generator after every so many epochs, and always after the last; the best by FID is kept."""
    num_measured: int = Field(default=2048, ge=6)
    """Images generated to be measured."""
    adv_train: bool = False
    """Train a generator along with the re-ID network, a step on each batch; mix_ratio of its images join in."""
    mix_ratio: float = Field(default=0.0, ge=0.0, le=4.0)
    """Generated images for each real one in the batches of a re-ID training; 0 = none."""
    mix_start_epoch: int = Field(default=0, ge=0)
    """Epochs of a re-ID training without generated images."""
    lambda_consistency: float = Field(default=0.0, ge=0.0)
    """Weight of how far a generated image's embedding is from that of the image it was made from."""
