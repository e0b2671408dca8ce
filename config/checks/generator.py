"""The person generator: what is set for it has what it needs, and an effect."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict
from config.params import Params

ADVERSARIAL = "gan_params.adv_train"
RATIO = "gan_params.mix_ratio"
SNAPSHOT = "gan_params.pretrain_snapshot_g"


def generated_images_are_used(params: Params) -> Iterator[Conflict]:
    """A generator that is trained along gives images to train with, and these come from some generator."""
    gan = params.gan_params
    if gan.adv_train and gan.mix_ratio == 0:
        text = f"trains a generator along, but {RATIO} is 0, so none of its images is used; set that above 0"
        yield Conflict((ADVERSARIAL, RATIO), text)
    if gan.mix_ratio > 0 and not gan.adv_train and not gan.pretrain_snapshot_g:
        text = f"needs a generator: name one that train_gan made as {SNAPSHOT}, or set {ADVERSARIAL} to true"
        yield Conflict((RATIO, SNAPSHOT, ADVERSARIAL), text)
    if gan.mix_ratio > 0 and round(gan.mix_ratio * params.batch_images) == 0:
        text = f"gives no image to a batch of {params.batch_images}; set it to at least {1 / params.batch_images:g}"
        yield Conflict((RATIO, "batch_size"), text)
    if gan.mix_ratio > 0 and gan.mix_start_epoch >= params.epoch:
        text = f"{gan.mix_start_epoch} leaves no epoch of {params.epoch} for generated images"
        yield Conflict(("gan_params.mix_start_epoch", "epoch"), text)
    for name in ("mix_start_epoch", "lambda_consistency"):
        if getattr(gan, name) and gan.mix_ratio == 0:
            yield Conflict((f"gan_params.{name}", RATIO), f"is for generated images, but {RATIO} is 0")


def consistency_has_a_source(params: Params) -> Iterator[Conflict]:
    """Only a conditioned generator makes an image from another one's embedding."""
    gan = params.gan_params
    if gan.adv_train and gan.lambda_consistency > 0 and not gan.condition:
        text = "compares a generated image to the one it was made from; that needs gan_params.condition"
        yield Conflict(("gan_params.lambda_consistency", "gan_params.condition"), text)


def generated_images_teach_something(params: Params) -> Iterator[Conflict]:
    """What unlabelled images teach goes through the classifiers; and they are no part of a batch's graph."""
    if params.gan_params.mix_ratio == 0:
        return
    if params.tri_loss_lambda_cls == 0:
        text = "generated images are for the classification loss, but tri_loss_lambda_cls is 0"
        yield Conflict((RATIO, "tri_loss_lambda_cls"), text)
    if params.model_params.spectral_trans > 0:
        text = (
            "the spectral transform would mix generated images into the embeddings of real ones; set one of them to 0"
        )
        yield Conflict((RATIO, "model_params.spectral_trans"), text)


def critics_are_bounded(params: Params) -> Iterator[Conflict]:
    """A Wasserstein critic that nothing holds scores higher and higher without telling more."""
    gan = params.gan_params
    if gan.loss == "wgan" and gan.penalty == "none" and not gan.spectral_norm:
        text = '"wgan" needs a penalty ("wgan_gp" or "r1") or spectral_norm; nothing else bounds its scores'
        yield Conflict(("gan_params.loss", "gan_params.penalty", "gan_params.spectral_norm"), text)


def consistency_has_something_to_train(params: Params) -> Iterator[Conflict]:
    """Embeddings do not move where everything before the classifiers is frozen."""
    if params.fine_tune and params.gan_params.lambda_consistency > 0:
        text = "pulls at embeddings, which fine_tune freezes; set it to 0"
        yield Conflict(("gan_params.lambda_consistency", "fine_tune"), text)


def generator_is_trained_on_one_device(params: Params) -> Iterator[Conflict]:
    """The networks of a generator are small, and the processes do not exchange its gradients."""
    if params.gan_params.adv_train and len(params.parallels) > 1:
        text = f"trains the generator on one device, but parallels names {len(params.parallels)}; train it before"
        yield Conflict((ADVERSARIAL, "parallels"), f"{text} with train_gan, and name it as {SNAPSHOT}")


CHECKS: tuple[Check[Params], ...] = (
    generated_images_are_used,
    consistency_has_a_source,
    generated_images_teach_something,
    critics_are_bounded,
    consistency_has_something_to_train,
    generator_is_trained_on_one_device,
)
