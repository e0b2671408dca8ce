"""What no section can check alone: options that are valid by themselves and impossible together."""

from collections.abc import Iterator

from config.checks import backbone, clustering, data, generator, losses, network, training
from config.checks.conflict import Check, Conflict, repeated_devices
from config.eval_params import EvalParams
from config.params import Params
from config.sections import nearest
from models.options import ModelParams


def data_sets_are_named_once(params: EvalParams) -> Iterator[Conflict]:
    """An offline evaluation has one way to name the data, a file for the embeddings of each set, and its GPUs."""
    yield from repeated_devices(params.parallels)
    if params.data_dirs and params.batches_dir is not None:
        yield Conflict(("data_dirs", "batches_dir"), "names data sets, as batches_dir does; leave one of them out")
    key = "data_dirs" if params.data_dirs else "batches_dir"
    if len(set(params.data_sets)) < len(params.data_sets):
        yield Conflict((key,), "names a data set more than once")
    if params.report_images and not params.report_path:
        yield Conflict(("report_images", "report_path"), "are those of the report; name an .html file as report_path")
    if len(params.data_sets) > 1 and params.features_path:
        yield Conflict(("features_path", key), f"holds the embeddings of one data set, but {key} names several")


def expected_keys_exist(params: EvalParams) -> Iterator[Conflict]:
    """What is expected of a network is something that networks have."""
    names = list(ModelParams.model_fields)
    for key in params.expected.model_params:
        if key not in names:
            near = nearest(key, names)
            yield Conflict(
                (f"expected.model_params.{key}",), "unknown key" + (f"; did you mean '{near}'?" if near else "")
            )


CHECKS: tuple[Check[Params], ...] = (
    data.data_sets_fit,
    data.balance_fits,
    training.batch_size_fits_sampling,
    training.augmentation_fits_image,
    training.augmentation_options_are_used,
    generator.generated_images_are_used,
    generator.generated_images_teach_something,
    generator.generator_can_be_trained,
    clustering.labels_are_not_needed,
    clustering.clustering_options_are_used,
    losses.some_loss_is_on,
    losses.pairs_can_form,
    losses.compared_features_exist,
    losses.margins_follow_steps,
    losses.classifier_fits,
    losses.weighted_branches_exist,
    backbone.backbone_has_a_map,
    network.stripes_are_equal,
    backbone.resnet_options_fit,
    backbone.timm_options_fit,
    backbone.transformer_options_fit,
    backbone.style_mixing_fits,
    network.head_options_are_used,
    network.pcb_options_fit,
    network.sides_of_the_neck_are_used,
    training.devices_fit,
    training.schedule_is_ordered,
    training.schedule_options_are_used,
    training.loggers_are_named_once,
    training.imagenet_weights_exist,
    training.frozen_backbone_has_weights,
    training.fine_tuning_has_effect,
)
EVALUATION_CHECKS: tuple[Check[EvalParams], ...] = (data_sets_are_named_once, expected_keys_exist)
