"""The batches, the schedule, the optimizer, the devices, and which layers are trained."""

from collections.abc import Iterator

from config.checks.conflict import Conflict, repeated_devices
from config.errors import shown
from config.params import Params
from models.backbones.registry import has_imagenet_weights

# No device holds the activations of more images; a larger number is a typing error.
MAX_BATCH_IMAGES = 16384
SCHEDULES_OF = {
    "decay_step": ("step",),
    "decay_gamma": ("step",),
    "decay_unit": ("step",),
    "end_factor": ("cosine", "flat_cosine", "poly"),
    "flat_epoch": ("flat_cosine",),
    "poly_power": ("poly",),
}
"""Options of the section `lr` and the schedules that they are for."""


def batch_size_fits_sampling(params: Params) -> Iterator[Conflict]:
    """P x K sampling decides the batch size; with random sampling batch_size does, if it is given."""
    sampling = params.batch_sampling_params
    if sampling.every_image and not sampling.class_balanced:
        keys = ("batch_sampling_params.every_image", "batch_sampling_params.class_balanced")
        yield Conflict(keys, "is for P x K sampling; random batches have every image anyway; leave it out")
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
    """The random crop lies inside the padded image; the smallest area of a rectangle is not above the largest."""
    augmentation = params.data_augmentation
    for resize, size, pad in (("resize_h", "img_h", augmentation.pads[0]), ("resize_w", "img_w", augmentation.pads[1])):
        given, needed = getattr(augmentation, resize), getattr(params, size)
        if given and given + 2 * pad < needed:
            text = f"{given} with data_augmentation.pad {pad} is smaller than the crop, {size} {needed}"
            yield Conflict((f"data_augmentation.{resize}", size, "data_augmentation.pad"), text)
    for name in ("random_erasing", "grayscale_patch"):
        rectangle, section = getattr(augmentation, name), f"data_augmentation.{name}"
        if rectangle.min_area > rectangle.max_area:
            text = f"{rectangle.min_area} is above {section}.max_area {rectangle.max_area}"
            yield Conflict((f"{section}.min_area", f"{section}.max_area"), text)


def augmentation_options_are_used(params: Params) -> Iterator[Conflict]:
    """A probability of colour jitter goes with colour jitter, the size of a patch with patches."""
    augmentation, section = params.data_augmentation, "data_augmentation"
    if augmentation.jitter_probability < 1 and not augmentation.jitters_colours:
        keys = tuple(
            f"{section}.{key}" for key in ("jitter_probability", "brightness", "contrast", "saturation", "hue")
        )
        yield Conflict(keys, "has no effect: brightness, contrast, saturation and hue are 0")
    patch = augmentation.grayscale_patch
    for name, field in type(patch).model_fields.items():
        if patch.probability == 0 and getattr(patch, name) != field.default:
            keys = tuple(f"{section}.grayscale_patch.{key}" for key in (name, "probability"))
            yield Conflict(keys, f"has no effect: {section}.grayscale_patch.probability is 0")


def devices_fit(params: Params) -> Iterator[Conflict]:
    """CUDA graphs hold neither accumulated gradients nor communication; frozen layers do not normalise batches."""
    yield from repeated_devices(params.parallels)
    if params.compile == "graphs" and params.accumulate_steps > 1:
        yield Conflict(("compile", "accumulate_steps"), '"graphs" goes with accumulate_steps 1 only; set "on"')
    if params.compile == "graphs" and params.sync_bn:
        yield Conflict(("compile", "sync_bn"), '"graphs" cannot capture the communication of sync_bn; set "on"')
    if params.sync_bn and params.fine_tune:
        yield Conflict(("sync_bn", "fine_tune"), "has no effect where fine_tune freezes all normalisation; set false")


def schedule_is_ordered(params: Params) -> Iterator[Conflict]:
    """Warm-up and flat part end within the training, decays follow one another, and Nesterov's method has momentum."""
    lr = params.lr
    if lr.warmup_epoch > params.epoch:
        text = f"{lr.warmup_epoch:g} is longer than the training, epoch {params.epoch}"
        yield Conflict(("lr.warmup_epoch", "epoch"), text)
    if lr.warmup_epoch > 0 and lr.warmup_steps:
        text = f"{lr.warmup_steps} is another length of the warm-up than lr.warmup_epoch; set one of them to 0"
        yield Conflict(("lr.warmup_steps", "lr.warmup_epoch"), text)
    if lr.schedule == "flat_cosine" and not 0 < lr.flat_epoch < params.epoch:
        text = f"{lr.flat_epoch:g} leaves no part of epoch {params.epoch} flat, or none to the cosine of lr.schedule"
        yield Conflict(("lr.flat_epoch", "epoch", "lr.schedule"), text)
    if isinstance(lr.decay_step, tuple) and list(lr.decay_step) != sorted(set(lr.decay_step)):
        yield Conflict(("lr.decay_step",), "the steps of the list must increase")
    if not params.decay_norms_and_biases and params.weight_decay == 0:
        text = "leaves some parameters out of weight_decay, which is 0 for all; leave it out"
        yield Conflict(("decay_norms_and_biases", "weight_decay"), text)
    if params.optimizer == "nesterov" and params.momentum == 0:
        yield Conflict(("optimizer", "momentum"), '"nesterov" needs momentum above 0')


def schedule_options_are_used(params: Params) -> Iterator[Conflict]:
    """Options of one schedule have no effect on another."""
    lr = params.lr
    for name, schedules in SCHEDULES_OF.items():
        default = type(lr).model_fields[name].default
        if lr.schedule not in schedules and getattr(lr, name) != default:
            of = " or ".join(map(shown, schedules))
            text = f"is for lr.schedule {of}, but that is {shown(lr.schedule)}; leave it out, or set {shown(default)}"
            yield Conflict((f"lr.{name}", "lr.schedule"), text)


def loggers_are_named_once(params: Params) -> Iterator[Conflict]:
    """A logger gets everything once."""
    if len(set(params.loggers)) < len(params.loggers):
        yield Conflict(("loggers",), "names a logger twice")


def imagenet_weights_exist(params: Params) -> Iterator[Conflict]:
    """There are ImageNet weights for torchvision's and timm's networks."""
    model = params.model_params.model
    if params.imagenet_pretrain and not has_imagenet_weights(model):
        text = f"there are no such weights for model_params.model {model}; name a file as pretrain_snapshot instead"
        yield Conflict(("imagenet_pretrain", "model_params.model", "pretrain_snapshot"), text)


def frozen_backbone_has_weights(params: Params) -> Iterator[Conflict]:
    """A backbone is frozen at first because it was trained before."""
    if params.lr.freeze_backbone_steps and not (params.imagenet_pretrain or params.pretrain_snapshot):
        keys = ("lr.freeze_backbone_steps", "imagenet_pretrain", "pretrain_snapshot")
        yield Conflict(keys, "needs imagenet_pretrain or pretrain_snapshot: the backbone would keep random weights")


def fine_tuning_has_effect(params: Params) -> Iterator[Conflict]:
    """Fine tuning trains the classifiers of a network that exists."""
    if not params.fine_tune:
        return
    distillation = params.distillation
    if not params.pretrain_snapshot:
        text = "needs pretrain_snapshot: the frozen layers would keep their initial weights"
        yield Conflict(("fine_tune", "pretrain_snapshot"), text)
    if params.tri_loss_lambda_cls == 0 and distillation.lambda_logits == 0:
        keys = ("fine_tune", "tri_loss_lambda_cls", "distillation.lambda_logits")
        yield Conflict(keys, "trains classifiers, but tri_loss_lambda_cls is 0 and distillation.lambda_logits too")
    if distillation.lambda_embedding > 0:
        text = "trains classifiers only, so distillation.lambda_embedding has no effect; set that to 0"
        yield Conflict(("fine_tune", "distillation.lambda_embedding"), text)
    for key, loss in params.feature_losses.items():
        yield Conflict(("fine_tune", key), f"trains classifiers only, so {loss} has no effect; set {key} to 0")
    for name in ("part_feature_erasing", "global_feature_erasing", "pcb_dropout", "mixstyle"):
        if getattr(params.model_params, name) > 0:
            text = f"runs frozen layers as in evaluation, so model_params.{name} has no effect; set that to 0"
            yield Conflict(("fine_tune", f"model_params.{name}"), text)
    if params.lr.freeze_backbone_steps:
        text = "freezes the backbone for all steps, so lr.freeze_backbone_steps has no effect; set that to 0"
        yield Conflict(("fine_tune", "lr.freeze_backbone_steps"), text)
    if params.lr.layer_decay != 1:
        text = "freezes the backbone, so lr.layer_decay has no effect; set that to 1"
        yield Conflict(("fine_tune", "lr.layer_decay"), text)
    if params.lr.fc_lr == 0:
        yield Conflict(("fine_tune", "lr.fc_lr"), "trains with lr.fc_lr only, and that is 0")
