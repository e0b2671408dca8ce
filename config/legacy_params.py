"""The predecessor's spellings of the training params: its names, and its values, as its code read them."""

from typing import Any

from config.errors import shown
from config.legacy import Meaning, Spelling, devices, is_flag, is_off, is_on, is_zero, plugin_name, renamed
from config.params import Params
from config.sections import allowed_values

BALANCED = "batch_sampling_params.class_balanced"
GENERATOR_KEYS = tuple(
    f"gan_params.{key}"
    for key in (
        *("input_dim", "batch_size", "adv_train", "alone_train", "only_train", "train_loop", "lr", "beta1", "ngf"),
        *("ndf", "preheating", "pretrain_snapshot_d", "pretrain_snapshot_g", "d_update_freq"),
    )
)
TRIPLET_KEYS = tuple(f"tri_loss_params.{key}" for key in ("margin", "lambda_tri", "lambda_cls", "use_adaptive_weight"))
CROP_KEYS = "data_augmentation.crop_h", "data_augmentation.crop_w"
PADDING_KEYS = "data_augmentation.padding_h", "data_augmentation.padding_w"


def _focal_loss(value: Any) -> dict[str, Any]:
    """A switch, or the power itself."""
    if is_on(value):
        # The power that did best in the paper: Lin et al. 2017, arXiv 1708.02002, table 1b.
        return {"focal_gamma": 2.0}
    return {"focal_gamma": 0.0 if is_off(value) else value}


def _margin_softmax(value: Any) -> dict[str, Any]:
    """The margins, one for each `step` iterations, and the scale of the embeddings; margin 0 is the plain softmax."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")
    known = "margin", "scale", "step", "unlabel_fold", "unlabel_update"
    unknown = sorted(value.keys() - {*known})
    if unknown:
        raise ValueError(f"unknown key {shown(unknown[0])}; the predecessor has {', '.join(known)}")
    if not is_zero(value.get("unlabel_fold")):
        text = "generated images as further negatives (unlabel_fold) have no counterpart; set unlabel_fold to 0"
        raise ValueError(f"{text}, or train with generated images by gan_params.mix_ratio")
    margin, scale, step = (0 if is_off(value.get(key)) else value[key] for key in ("margin", "scale", "step"))
    margins = margin if isinstance(margin, list) else [margin]
    is_plain = not isinstance(margin, list) and "margin" in value and is_zero(margin)
    off = is_plain or all(type(item) in (int, float) and item == 0 for item in [*margins, scale])
    # A wrong step is passed on, and validation refuses it.
    if off and type(step) in (int, float) and step >= 0:
        return {}
    new = {"model_params.classifier": "cosine", "model_params.cosine_scale": scale}
    if type(step) not in (int, float) or step != 0:
        return new | {"softmax_margin": margins, "softmax_margin_step": step}
    return new | {"softmax_margin": margins[0] if len(margins) == 1 else margins}


def _softmax_only(value: Any) -> dict[str, Any]:
    return {"tri_loss_margin": 0, "tri_loss_adaptive_weight": False} if is_flag(value) else {}


def _no_triplet(margin: Any, weight: Any, lambda_cls: Any, adaptive: Any, balanced: Any) -> Meaning | None:
    """Without margin, weight or balanced batches there was no triplet loss, and the classification loss was on."""
    if margin is not None and is_zero(margin):
        why = "margin is 0"
    elif weight is not None and is_zero(weight):
        why = "lambda_tri is 0"
    elif balanced is not None and is_zero(balanced):
        why = "the predecessor had it with class_balanced only"
    else:
        return None
    new = {"tri_loss_margin": 0}
    if all(value is None for value in (weight, lambda_cls, adaptive)) and margin is not None:
        return Meaning(new)
    return Meaning(new, f"means no triplet loss, as {why}; the classification loss is then on")


def _batch_size(value: Any, balanced: Any, identities: Any, images: Any) -> Meaning:
    """P x K decides the size of balanced batches."""
    if not is_on(balanced) or None in (identities, images):
        return Meaning({"batch_size": value})
    return Meaning(
        {}, f"is not used: a class_balanced batch has P x K images, here {shown(identities)} x {shown(images)}"
    )


def _no_generator(input_dim: Any, *_: Any) -> Meaning | None:
    """A noise vector of size 0 meant no generator."""
    if input_dim is None or not is_zero(input_dim):
        return None
    return Meaning({}, "means no generator, as input_dim is 0")


def _generator_alone(value: Any) -> dict[str, Any]:
    if is_flag(value):
        raise ValueError("has no counterpart; train the generator before, by --operation train_gan, and set this false")
    return {}


def _preheating(value: Any) -> dict[str, Any]:
    if not is_zero(value):
        text = "counts epochs, and the training here steps; leave it out, and give the steps as"
        raise ValueError(f"{text} gan_params.preheat_steps")
    return {"gan_params.preheat_steps": 0}


def _critic_updates(value: Any) -> dict[str, Any]:
    """The predecessor's probability of an update; 1 is the same number here."""
    if type(value) in (int, float) and 0 < value < 1:
        raise ValueError(f"{value:g} was a probability; here it is a number of discriminator updates, at least 1")
    return {"gan_params.d_update_freq": value}


def _dropped_branches(value: Any) -> dict[str, Any]:
    """A count; "on" does not say how many."""
    if is_on(value):
        raise ValueError(f"expected how many branches a step leaves out, such as 1, got {shown(value)}")
    return {"model_params.random_drop_branches": 0 if is_off(value) else value}


def _feature_mask(value: Any) -> dict[str, Any]:
    """A switch for all branches at once."""
    return {"model_params.feature_mask": "none" if is_zero(value) else "all" if is_on(value) else value}


def _colour_jitter(value: Any) -> dict[str, Any]:
    strength = 0.1 if is_flag(value) else 0.0
    return {f"data_augmentation.{change}": strength for change in ("brightness", "contrast", "saturation")}


def _erasing(value: Any) -> dict[str, Any] | None:
    """A switch, with the probability and the areas of its code; an object is ours."""
    section = "data_augmentation.random_erasing"
    if not isinstance(value, bool) and value not in ("true", "false"):
        return None
    if is_on(value):
        return {f"{section}.probability": 0.6, f"{section}.min_area": 0.02, f"{section}.max_area": 0.1}
    return {f"{section}.probability": 0}


def _noise(value: Any, *_: Any) -> Meaning:
    """A switch; half the images had noise of up to half a grey level, whose mean is a thousandth of the range."""
    if value is None:
        return Meaning(
            {}, "is missing; the predecessor then added noise, here it stays off ('noise' 0.001 comes close)"
        )
    return Meaning({"data_augmentation.noise": 0.001 if is_flag(value) else 0.0})


def _crop(height: Any, width: Any, image_height: Any, image_width: Any) -> Meaning | dict[str, Any]:
    """Images were resized to img_h x img_w, and the network saw random crops of them."""
    if is_zero(height) or is_zero(width):
        return {}
    new = {"img_h": height, "img_w": width}
    given = {"resize_h": (image_height, height), "resize_w": (image_width, width)}
    return new | {f"data_augmentation.{key}": old for key, (old, crop) in given.items() if old not in (None, crop)}


def _padding(height: Any, width: Any) -> Meaning | dict[str, Any]:
    if is_zero(height) or is_zero(width):
        note = "had no effect in the predecessor, which padded only where both were above 0"
        return Meaning({"data_augmentation.pad": 0}, note)
    return {"data_augmentation.pad": height if height == width else [height, width]}


def _decay_in_epochs(steps: Any, epochs: Any, balanced: Any, unit: Any) -> Meaning | None:
    """A list counted epochs, a number with balanced batches iterations."""
    if not isinstance(steps, list) or epochs is None or not is_on(balanced) or unit is not None:
        return None
    new = {"lr.decay_step": steps, "lr.decay_unit": "epoch"}
    return Meaning(new, "counts epochs, as lists did in the predecessor: 'lr.decay_unit' is \"epoch\"")


def _optimizer(value: Any) -> dict[str, Any]:
    """A name in letters of any case."""
    lower = value.lower() if isinstance(value, str) else value
    return {"optimizer": lower if lower in allowed_values(Params.model_fields["optimizer"].annotation) else value}


SPELLINGS = (
    # These look at keys that later ones replace.
    Spelling(
        ("data_augmentation.gaussian_noise",), _noise,
        beside=("data_augmentation.colour_jitering", "data_augmentation.imagenet_static", *CROP_KEYS, *PADDING_KEYS),
        even_if_missing=True,
    ),
    Spelling(("lr.decay_step",), _decay_in_epochs, beside=("epochs", BALANCED, "lr.decay_unit")),
    Spelling(TRIPLET_KEYS, _no_triplet, beside=(BALANCED,)),
    Spelling(GENERATOR_KEYS, _no_generator),
    renamed("epochs", "epoch"),
    devices("gpus"),
    Spelling(("optimizer",), _optimizer),
    Spelling(
        ("num_preprocess_workers",), lambda _: Meaning({}, "has no effect: one thread for each core decodes the images")
    ),
    renamed("tri_loss_params.margin", "tri_loss_margin"),
    renamed("tri_loss_params.lambda_tri", "tri_loss_lambda_tri"),
    renamed("tri_loss_params.lambda_cls", "tri_loss_lambda_cls"),
    renamed("tri_loss_params.use_adaptive_weight", "tri_loss_adaptive_weight"),
    Spelling(("softmax_only",), _softmax_only, overrules=True),
    Spelling(("batch_sampling_params.softmax_only",), _softmax_only, overrules=True),
    Spelling(("focal_loss",), _focal_loss),
    Spelling(("asoftmax_params",), _margin_softmax),
    Spelling(
        ("batch_sampling_params.batch_size",), _batch_size,
        beside=(BALANCED, "batch_sampling_params.P", "batch_sampling_params.K"),
    ),
    Spelling(("data_augmentation.colour_jitering",), _colour_jitter),
    Spelling(("data_augmentation.colour_jittering",), _colour_jitter),
    Spelling(("data_augmentation.colour_jiterring",), _colour_jitter),
    Spelling(CROP_KEYS, _crop, beside=("img_h", "img_w")),
    Spelling(PADDING_KEYS, _padding),
    Spelling(("data_augmentation.random_erasing",), _erasing),
    Spelling(
        ("data_augmentation.imagenet_static",),
        lambda value: {"data_augmentation.normalisation": "imagenet" if is_flag(value) else "half"},
    ),
    renamed("model_params.feature_gobal_dim", "model_params.feature_global_dim"),
    Spelling(("model_params.random_drop_branchs",), _dropped_branches),
    Spelling(
        ("model_params.spectral_trans",),
        lambda value: {"model_params.spectral_trans": 0.0 if is_off(value) else value},
    ),
    Spelling(("model_params.feature_mask",), _feature_mask),
    Spelling(("gan_params.preheating",), _preheating),
    Spelling(("gan_params.alone_train",), _generator_alone),
    Spelling(("gan_params.only_train",), _generator_alone),
    Spelling(("gan_params.train_loop",), lambda _: Meaning({}, "has no effect without alone_train")),
    Spelling(("gan_params.beta1",), lambda value: {"gan_params.betas": [value, 0.999]}),
    Spelling(("gan_params.d_update_freq",), _critic_updates),
    plugin_name("evaluation_params.type"),
    Spelling(
        ("evaluation_params.step",), lambda value: {} if value is None else {"evaluation_params.every_epochs": value}
    ),
    renamed("evaluation_params.epoch", "evaluation_params.every_epochs"),
)  # fmt: skip
"""Every key of the predecessor's params.json that differs from ours, by name or by what may stand there."""
