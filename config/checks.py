"""What no section can check alone: settings that are fine by themselves and impossible together."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from config.eval_params import EvalParams
from config.params import Params
from models.geometry import feature_map_size
from utils.options import Options

# No device holds the activations of more images; what asks for them has a slip of the keyboard in it.
MAX_IMAGES_PER_STEP = 16384


class Conflict(NamedTuple):
    """Keys that do not go together; the message is shown at the first of them and names the others."""

    keys: tuple[str, ...]
    text: str


T = TypeVar("T", bound=Options)
Check = Callable[[T], Iterator[Conflict]]


def _triplet_is_on(params: Params) -> bool:
    return params.tri_loss_margin != 0 and params.tri_loss_lambda_tri > 0


def batch_size_fits_sampling(params: Params) -> Iterator[Conflict]:
    """P x K sampling alone decides how large a batch is."""
    sampling = params.batch_sampling_params
    if not sampling.class_balanced:
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
        yield Conflict(keys, text)


def triplets_can_form(params: Params) -> Iterator[Conflict]:
    """A triplet needs two images of one identity and one of another in the same batch."""
    sampling = params.batch_sampling_params
    if not _triplet_is_on(params):
        return
    margin = f"the triplet loss (tri_loss_margin {params.tri_loss_margin})"
    if not sampling.class_balanced:
        keys = ("tri_loss_margin", "batch_sampling_params.class_balanced")
        yield Conflict(keys, "the triplet loss needs batch_sampling_params.class_balanced true; set it, or set 0 here")
    elif sampling.K < 2:
        yield Conflict(("batch_sampling_params.K", "tri_loss_margin"), f"{margin} needs at least 2, got {sampling.K}")
    elif sampling.P < 2:
        yield Conflict(("batch_sampling_params.P", "tri_loss_margin"), f"{margin} needs at least 2, got {sampling.P}")


def some_loss_is_on(params: Params) -> Iterator[Conflict]:
    """Without any loss there is nothing to train."""
    if params.tri_loss_lambda_cls == 0 and not _triplet_is_on(params):
        keys = ("tri_loss_lambda_cls", "tri_loss_margin", "tri_loss_lambda_tri")
        text = "is 0, and tri_loss_margin or tri_loss_lambda_tri is 0 too: no loss is left to train with"
        yield Conflict(keys, text)


def triplet_features_exist(params: Params) -> Iterator[Conflict]:
    """The triplet loss acts on features that the network has, each once."""
    model = params.model_params
    for name in sorted(set(params.tri_loss_on)):
        if params.tri_loss_on.count(name) > 1:
            yield Conflict(("tri_loss_on",), f'names "{name}" more than once')
        if name != "global" and model.pcb_n_parts == 0:
            text = f'"{name}" needs stripes, but model_params.pcb_n_parts is 0; use "global"'
            yield Conflict(("tri_loss_on", "model_params.pcb_n_parts"), text)
        if name == "global" and _triplet_is_on(params) and model.pcb_n_parts > 0 and model.feature_global_dim == 0:
            text = (
                f'"global" needs a global branch beside the {model.pcb_n_parts} stripes of model_params.pcb_n_parts; '
                'give model_params.feature_global_dim, or use "parts" or "concat"'
            )
            keys = ("tri_loss_on", "model_params.pcb_n_parts", "model_params.feature_global_dim", "tri_loss_margin")
            yield Conflict(keys, text)


def stripes_share_embedding(params: Params) -> Iterator[Conflict]:
    """Every stripe has an equal share of the embedding."""
    size, stripes = params.model_params.feature_dim, params.model_params.pcb_n_parts
    if stripes and size % stripes:
        text = f"{size} does not divide into model_params.pcb_n_parts {stripes}; {_multiples(size, stripes)}"
        yield Conflict(("model_params.feature_dim", "model_params.pcb_n_parts"), text)


def stripes_share_rows(params: Params) -> Iterator[Conflict]:
    """Every stripe has the same number of rows of the feature map."""
    model = params.model_params
    rows, _ = feature_map_size(params.img_h, params.img_w, model.last_conv_stride)
    if model.pcb_n_parts and rows % model.pcb_n_parts:
        pixels = 16 * model.last_conv_stride
        text = (
            f"{model.pcb_n_parts} stripes do not divide the {rows} rows of the feature map (img_h {params.img_h}, "
            f"model_params.last_conv_stride {model.last_conv_stride}); "
            f"for img_h {_multiples(params.img_h, model.pcb_n_parts * pixels)}"
        )
        yield Conflict(("model_params.pcb_n_parts", "img_h", "model_params.last_conv_stride"), text)


def global_branch_has_stripes(params: Params) -> Iterator[Conflict]:
    """The global branch stands beside stripes; without them the single feature is the global one."""
    model = params.model_params
    if model.feature_global_dim and not model.pcb_n_parts:
        text = "needs model_params.pcb_n_parts above 0; without stripes use model_params.feature_dim"
        yield Conflict(("model_params.feature_global_dim", "model_params.pcb_n_parts"), text)


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


def one_training_device(params: Params) -> Iterator[Conflict]:
    """Until several devices can train together, more than one index would leave all but one idle."""
    if len(params.parallels) > 1:
        yield Conflict(("parallels",), "training on several devices is not available yet; give one index")


def one_evaluation_device(params: EvalParams) -> Iterator[Conflict]:
    """As for training."""
    if len(params.parallels) > 1:
        yield Conflict(("parallels",), "evaluating on several devices is not available yet; give one index")


def data_sets_are_named_once(params: EvalParams) -> Iterator[Conflict]:
    """One way to name the data, and one file for the embeddings of each set."""
    if params.data_dirs and params.batches_dir is not None:
        yield Conflict(("data_dirs", "batches_dir"), "names data sets, as batches_dir does; leave one of them out")
    if len(set(params.data_dirs)) < len(params.data_dirs):
        yield Conflict(("data_dirs",), "names a data set more than once")
    if len(params.data_dirs) > 1 and params.features_path:
        text = "holds the embeddings of one data set, but data_dirs names several"
        yield Conflict(("features_path", "data_dirs"), text)


def schedule_is_ordered(params: Params) -> Iterator[Conflict]:
    """The warm-up ends within the training, and decays follow one another."""
    lr = params.lr
    if lr.warmup_epoch > params.epoch:
        yield Conflict(
            ("lr.warmup_epoch", "epoch"), f"{lr.warmup_epoch:g} is longer than the training, epoch {params.epoch}"
        )
    if isinstance(lr.decay_step, tuple) and list(lr.decay_step) != sorted(set(lr.decay_step)):
        yield Conflict(("lr.decay_step",), "the steps of the list must rise")


def fine_tuning_has_effect(params: Params) -> Iterator[Conflict]:
    """Fine tuning trains the classifiers of a network that exists."""
    if params.fine_tune and not params.pretrain_snapshot:
        text = "needs pretrain_snapshot: the frozen layers would keep their initial weights"
        yield Conflict(("fine_tune", "pretrain_snapshot"), text)
    if params.fine_tune and params.tri_loss_lambda_cls == 0:
        yield Conflict(("fine_tune", "tri_loss_lambda_cls"), "trains classifiers, but tri_loss_lambda_cls is 0")
    if params.fine_tune and params.lr.fc_lr == 0:
        yield Conflict(("fine_tune", "lr.fc_lr"), "trains with lr.fc_lr only, and that is 0")


def nesterov_has_momentum(params: Params) -> Iterator[Conflict]:
    """Nesterov's correction is one of the momentum."""
    if params.optimizer == "nesterov" and params.momentum == 0:
        yield Conflict(("optimizer", "momentum"), '"nesterov" needs momentum above 0')


def _multiples(number: int, factor: int) -> str:
    """The multiples of `factor` nearest to `number`, in words."""
    below = number // factor * factor
    return f"use {below} or {below + factor}" if below else f"use {factor}"


CHECKS: tuple[Check[Params], ...] = (
    batch_size_fits_sampling,
    triplets_can_form,
    some_loss_is_on,
    triplet_features_exist,
    stripes_share_embedding,
    stripes_share_rows,
    global_branch_has_stripes,
    crop_fits_image,
    erasing_areas_are_ordered,
    one_training_device,
    schedule_is_ordered,
    fine_tuning_has_effect,
    nesterov_has_momentum,
)
EVALUATION_CHECKS: tuple[Check[EvalParams], ...] = (one_evaluation_device, data_sets_are_named_once)
