"""The spectral feature transform."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict
from config.params import Params

SIGMA = "model_params.spectral_trans"


def batches_show_classes_together(params: Params) -> Iterator[Conflict]:
    """The transform mixes the images of a batch that are like each other; each class needs several to mix."""
    sampling = params.batch_sampling_params
    if params.model_params.spectral_trans == 0:
        return
    if not sampling.class_balanced:
        text = 'needs batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here'
        yield Conflict((SIGMA, "batch_sampling_params.class_balanced"), text)
    elif sampling.K < 2:
        text = "needs batch_sampling_params.K of at least 2: with one image per class there is nothing to mix"
        yield Conflict((SIGMA, "batch_sampling_params.K"), text)


def spectral_scores_are_supervised(params: Params) -> Iterator[Conflict]:
    """What comes out of the transform is seen by the classification loss alone."""
    if params.model_params.spectral_trans > 0 and params.tri_loss_lambda_cls == 0:
        yield Conflict((SIGMA, "tri_loss_lambda_cls"), "needs the classification loss, but tri_loss_lambda_cls is 0")


def spectral_start_lies_in_the_training(params: Params) -> Iterator[Conflict]:
    """When the transform starts matters only if it does."""
    model = params.model_params
    for name in ("spectral_start_epoch", "spectral_start_accuracy"):
        if model.spectral_trans == 0 and getattr(model, name) > 0:
            text = f"says when the spectral transform starts, but {SIGMA} is 0; leave this out"
            yield Conflict((f"model_params.{name}", SIGMA), text)
    if model.spectral_trans > 0 and model.spectral_start_epoch >= params.epoch:
        text = (
            f"{model.spectral_start_epoch} leaves the spectral transform no epoch of the training, epoch {params.epoch}"
        )
        yield Conflict(("model_params.spectral_start_epoch", "epoch", SIGMA), text)


CHECKS: tuple[Check[Params], ...] = (
    batches_show_classes_together,
    spectral_scores_are_supervised,
    spectral_start_lies_in_the_training,
)
