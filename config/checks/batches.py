"""The images of a batch and their augmentation."""

from collections.abc import Iterator

from config.checks.conflict import Conflict
from config.params import Params

# No device holds the activations of more images; a larger number is a typing error.
MAX_BATCH_IMAGES = 16384


def batch_size_fits_sampling(params: Params) -> Iterator[Conflict]:
    """P x K sampling decides the batch size; with random sampling batch_size does, if it is given."""
    sampling = params.batch_sampling_params
    if not sampling.class_balanced and params.batch_size is not None:
        return
    images = sampling.P * sampling.K
    keys = ("batch_sampling_params.P", "batch_sampling_params.K")
    product = f"{sampling.P} x {sampling.K} = {images}"
    if not 2 <= images <= MAX_BATCH_IMAGES:
        yield Conflict(keys, f"P x K is {product} images; a batch has 2 to {MAX_BATCH_IMAGES}")
    elif params.batch_size not in (None, images):
        text = f"is {params.batch_size}, but P x K of batch_sampling_params is {product}; leave it out"
        yield Conflict(("batch_size", *keys, "batch_sampling_params.class_balanced"), text)


def augmentation_fits_image(params: Params) -> Iterator[Conflict]:
    """The random crop lies inside the padded image; the smallest erased area is not above the largest."""
    augmentation = params.data_augmentation
    for resize, size in (("resize_h", "img_h"), ("resize_w", "img_w")):
        given, needed = getattr(augmentation, resize), getattr(params, size)
        if given and given + 2 * augmentation.pad < needed:
            text = f"{given} with data_augmentation.pad {augmentation.pad} is smaller than the crop, {size} {needed}"
            yield Conflict((f"data_augmentation.{resize}", size, "data_augmentation.pad"), text)
    erasing, section = augmentation.random_erasing, "data_augmentation.random_erasing"
    if erasing.min_area > erasing.max_area:
        text = f"{erasing.min_area} is above {section}.max_area {erasing.max_area}"
        yield Conflict((f"{section}.min_area", f"{section}.max_area"), text)
