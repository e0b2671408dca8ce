"""Which images make up a batch, and what is done to them."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict
from config.params import Params

# No device holds the activations of more images; what asks for them has a slip of the keyboard in it.
MAX_IMAGES_PER_STEP = 16384


def batch_size_fits_sampling(params: Params) -> Iterator[Conflict]:
    """P x K sampling alone decides how large a batch is; with random sampling batch_size does, if it is given."""
    sampling = params.batch_sampling_params
    if not sampling.class_balanced and params.batch_size is not None:
        return
    images = sampling.P * sampling.K
    keys = ("batch_size", "batch_sampling_params.P", "batch_sampling_params.K")
    product = f"{sampling.P} x {sampling.K} = {images}"
    if not 2 <= images <= MAX_IMAGES_PER_STEP:
        text = f"P x batch_sampling_params.K is {product}; a batch has 2 to {MAX_IMAGES_PER_STEP} images"
        yield Conflict(keys[1:], text)
    elif params.batch_size is not None and params.batch_size != images:
        text = (
            f"is {params.batch_size}, but batch_sampling_params.P x batch_sampling_params.K is {product}; leave it out"
        )
        yield Conflict((*keys, "batch_sampling_params.class_balanced"), text)


def crop_fits_image(params: Params) -> Iterator[Conflict]:
    """The random crop of img_h x img_w lies inside the resized and padded image."""
    augmentation = params.data_augmentation
    for resize, size in (("resize_h", "img_h"), ("resize_w", "img_w")):
        given, needed = getattr(augmentation, resize), getattr(params, size)
        if given and given + 2 * augmentation.pad < needed:
            pad = f"data_augmentation.pad {augmentation.pad}"
            text = f"{given} and {pad} on both sides are smaller than the crop, {size} {needed}"
            yield Conflict((f"data_augmentation.{resize}", size, "data_augmentation.pad"), text)


def erasing_areas_are_ordered(params: Params) -> Iterator[Conflict]:
    """The smallest erased rectangle is not larger than the largest."""
    erasing = params.data_augmentation.random_erasing
    if erasing.min_area > erasing.max_area:
        above = "data_augmentation.random_erasing"
        text = f"{erasing.min_area} is above {above}.max_area {erasing.max_area}"
        yield Conflict((f"{above}.min_area", f"{above}.max_area"), text)


CHECKS: tuple[Check[Params], ...] = (batch_size_fits_sampling, crop_fits_image, erasing_areas_are_ordered)
