"""The person generator: its options have what they need, and an effect."""

from collections.abc import Iterator

from config.checks.conflict import Conflict
from config.params import Params

ADVERSARIAL = "gan_params.adv_train"
RATIO = "gan_params.mix_ratio"
CONSISTENCY = "gan_params.lambda_consistency"
SNAPSHOT = "gan_params.pretrain_snapshot_g"


def generated_images_are_used(params: Params) -> Iterator[Conflict]:
    """Options for generated images need a generator and batches that generated images join."""
    gan = params.gan_params
    if gan.mix_ratio == 0:
        if gan.adv_train:
            text = f"trains a generator along, but {RATIO} is 0, so none of its images is used; set that above 0"
            yield Conflict((ADVERSARIAL, RATIO), text)
        for name in ("mix_start_epoch", "lambda_consistency"):
            if getattr(gan, name):
                yield Conflict((f"gan_params.{name}", RATIO), f"is for generated images, but {RATIO} is 0")
        return
    if not gan.adv_train and not gan.pretrain_snapshot_g:
        text = f"needs a generator: name one that train_gan made as {SNAPSHOT}, or set {ADVERSARIAL} to true"
        yield Conflict((RATIO, SNAPSHOT, ADVERSARIAL), text)
    if round(gan.mix_ratio * params.batch_images) == 0:
        text = f"adds no image to a batch of {params.batch_images}; set it to at least {1 / params.batch_images:g}"
        yield Conflict((RATIO, "batch_size"), text)
    if gan.mix_start_epoch >= params.epoch:
        text = f"{gan.mix_start_epoch} leaves no epoch of {params.epoch} for generated images"
        yield Conflict(("gan_params.mix_start_epoch", "epoch"), text)


def generated_images_teach_something(params: Params) -> Iterator[Conflict]:
    """Generated images train the network through the classification loss and the consistency of embeddings."""
    gan = params.gan_params
    if gan.mix_ratio > 0 and params.tri_loss_lambda_cls == 0:
        text = "generated images are for the classification loss, but tri_loss_lambda_cls is 0"
        yield Conflict((RATIO, "tri_loss_lambda_cls"), text)
    if gan.mix_ratio > 0 and params.model_params.spectral_trans > 0:
        text = "the spectral transform would mix generated images into real embeddings; set one of them to 0"
        yield Conflict((RATIO, "model_params.spectral_trans"), text)
    if gan.adv_train and gan.lambda_consistency > 0 and not gan.condition:
        text = "compares a generated image with its source image; that needs gan_params.condition"
        yield Conflict((CONSISTENCY, "gan_params.condition"), text)
    if params.fine_tune and gan.lambda_consistency > 0:
        yield Conflict((CONSISTENCY, "fine_tune"), "trains embeddings, which fine_tune freezes; set it to 0")


def generator_can_be_trained(params: Params) -> Iterator[Conflict]:
    """A Wasserstein critic needs a bound on its scores; a generator is trained on one device."""
    gan = params.gan_params
    if gan.loss == "wgan" and gan.penalty == "none" and not gan.spectral_norm:
        text = '"wgan" needs a penalty ("wgan_gp" or "r1") or spectral_norm; nothing else bounds its scores'
        yield Conflict(("gan_params.loss", "gan_params.penalty", "gan_params.spectral_norm"), text)
    if gan.adv_train and len(params.parallels) > 1:
        text = f"trains the generator on one device, but parallels names {len(params.parallels)}; train it before"
        yield Conflict((ADVERSARIAL, "parallels"), f"{text} with train_gan, and name it as {SNAPSHOT}")
