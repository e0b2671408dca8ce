"""Losses: each has what it needs, and its options have an effect."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from config.checks.conflict import Conflict
from config.params import Params
from losses.loss import branch_of
from losses.options import METRIC_SECTIONS, MetricFeature
from models.outputs import PENULTIMATE

CLASSIFIER = "model_params.classifier"
TRIPLET = ("tri_loss_margin", "tri_loss_lambda_tri")
USUAL_MARGINS = {"circle": 0.35, "arcface": 0.5}


def some_loss_is_on(params: Params) -> Iterator[Conflict]:
    """There is a loss to train with; a distillation loss needs a teacher, and a teacher a loss."""
    section = params.distillation
    weights = [f"distillation.{name}" for name in ("lambda_logits", "lambda_embedding")]
    given = [key for key in weights if getattr(section, key.partition(".")[2]) > 0]
    contrasts = params.is_unsupervised and params.clustering_params.weight > 0
    if params.tri_loss_lambda_cls == 0 and not params.pair_losses and not given and not contrasts:
        text = "is 0, and tri_loss_margin or tri_loss_lambda_tri is 0 too: no loss is left to train with"
        yield Conflict(("tri_loss_lambda_cls", *TRIPLET, "distillation"), text)
    for key in given:
        if not section.teacher:
            yield Conflict((key, "distillation.teacher"), "needs distillation.teacher, the network to learn from")
    if section.teacher and not given:
        yield Conflict(("distillation.teacher", *weights), f"is unused: {' and '.join(weights)} are 0")


def pairs_can_form(params: Params) -> Iterator[Conflict]:
    """A loss that compares images needs two of one identity and one of another; its options need the loss."""
    sampling = params.batch_sampling_params
    if not params.triplet_is_on:
        options = {
            "gather_embeddings": params.gather_embeddings and not params.pair_losses,
            "tri_loss_adaptive_weight": params.tri_loss_adaptive_weight,
            "tri_loss_of": params.tri_loss_of != "features",
            "tri_loss_weights": bool(params.tri_loss_weights),
        }
        for name, on in options.items():
            if on:
                text = "is for the triplet loss, but tri_loss_margin or tri_loss_lambda_tri is 0"
                yield Conflict((name, *TRIPLET), text)
    for section in METRIC_SECTIONS:
        options = getattr(params, section)
        for name in type(options).model_fields if options.weight == 0 else ():
            if getattr(options, name) != type(options).model_fields[name].default:
                keys = (f"{section}.{name}", f"{section}.weight")
                yield Conflict(keys, f"has no effect: {section}.weight is 0")
    for key, loss in params.pair_losses.items():
        if not sampling.class_balanced:
            text = f'{loss} needs batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here'
            yield Conflict((key, "batch_sampling_params.class_balanced"), text)
        elif min(sampling.P, sampling.K) < 2:
            name, what = ("K", "images of an identity") if sampling.K < 2 else ("P", "identities")
            text = f"{loss} ({key} {reduce(getattr, key.split('.'), params)}) needs at least 2 {what}, got {name} 1"
            yield Conflict((f"batch_sampling_params.{name}", key), text)


def compared_features_exist(params: Params) -> Iterator[Conflict]:
    """The losses of features use those that the network has, each once, and weigh those that they use."""
    yield from _features_exist(params, "tri_loss_on", params.tri_loss_on, "tri_loss_margin", params.triplet_is_on)
    if params.triplet_is_on:
        yield from _features_are_used("tri_loss_weights", params.tri_loss_weights, "tri_loss_on", params.tri_loss_on)
    for section in METRIC_SECTIONS:
        options = getattr(params, section)
        if options.weight > 0:
            yield from _features_exist(params, f"{section}.on", options.on, f"{section}.weight", True)
            yield from _features_are_used(f"{section}.weights", options.weights, f"{section}.on", options.on)


def _features_are_used(
    key: str, weights: Mapping[str, float], on: str, features: Sequence[MetricFeature]
) -> Iterator[Conflict]:
    for name in sorted(weights.keys() - {*features}):
        yield Conflict((key, on), f'"{name}" has no such loss; {on} names {_named(features)}')


def _features_exist(
    params: Params, key: str, features: Sequence[MetricFeature], switch: str, is_on: bool
) -> Iterator[Conflict]:
    model = params.model_params
    known = [*model.branches, *([PENULTIMATE] if model.head == "clip" else [])]
    for name in sorted(set(features)):
        if features.count(name) > 1:
            yield Conflict((key,), f'names "{name}" more than once')
        if model.head != "pcb" or name not in ("global", "parts", "concat"):
            if name not in known and (name == PENULTIMATE or branch_of(name) not in known):
                text = f'"{name}" is no feature of model_params.head "{model.head}"; there is {_named(known)}'
                yield Conflict((key, "model_params.head"), text)
            continue
        if name != "global" and model.pcb_n_parts == 0:
            text = f'"{name}" needs stripes, but model_params.pcb_n_parts is 0; use "global"'
            yield Conflict((key, "model_params.pcb_n_parts"), text)
        if name == "global" and is_on and model.pcb_n_parts > 0 and model.feature_global_dim == 0:
            text = (
                f'"global" needs a global branch beside the {model.pcb_n_parts} stripes of model_params.pcb_n_parts; '
                'give model_params.feature_global_dim, or use "parts" or "concat"'
            )
            yield Conflict((key, "model_params.pcb_n_parts", "model_params.feature_global_dim", switch), text)


def margins_follow_steps(params: Params) -> Iterator[Conflict]:
    """A list of margins and the steps between them need each other."""
    margins, step = params.softmax_margin, params.softmax_margin_step
    keys = ("softmax_margin", "softmax_margin_step")
    if margins == ():
        yield Conflict(keys[:1], "the list has no margins; use 0 for none")
    elif isinstance(margins, tuple) and len(margins) > 1 and step == 0:
        text = (
            f"the list needs softmax_margin_step, the iterations for which each of its {len(margins)} margins is used"
        )
        yield Conflict(keys, text)
    elif not isinstance(margins, tuple) and step > 0:
        yield Conflict(keys[::-1], f"needs a list of margins, but softmax_margin is the single number {margins:g}")


def classifier_fits(params: Params) -> Iterator[Conflict]:
    """Margin and scale need a cosine classifier, which has no bias; both need the classification loss."""
    model, name = params.model_params, params.classification_loss
    margin = any(params.softmax_margin) if isinstance(params.softmax_margin, tuple) else params.softmax_margin
    if name != "softmax":
        if model.classifier == "linear" or model.cosine_scale == 0:
            text = f'"{name}" needs {CLASSIFIER} "cosine" and model_params.cosine_scale, such as 64'
            yield Conflict(("classification_loss", CLASSIFIER, "model_params.cosine_scale"), text)
        if not margin:
            text = f'"{name}" needs a margin; set softmax_margin, such as to {USUAL_MARGINS[name]}'
            yield Conflict(("classification_loss", "softmax_margin"), text)
    elif model.classifier == "linear" and margin:
        text = f'is subtracted from a cosine, but {CLASSIFIER} is not "cosine"; set that, or 0 here'
        yield Conflict(("softmax_margin", CLASSIFIER), text)
    if model.classifier == "linear" and model.cosine_scale > 0:
        text = f'is the scale of a cosine classifier, but {CLASSIFIER} is not "cosine"'
        yield Conflict(("model_params.cosine_scale", CLASSIFIER), text)
    if model.classifier == "cosine" and model.classifier_bias:
        text = "a cosine classifier has no bias; set model_params.classifier_bias to false"
        yield Conflict((CLASSIFIER, "model_params.classifier_bias"), text)
    if params.label_smoothing_over == "others" and params.label_smoothing == 0:
        text = "says how labels are smoothed, but label_smoothing is 0"
        yield Conflict(("label_smoothing_over", "label_smoothing"), text)
    if params.label_smoothing_over == "others" and params.label_smoothing > 0.5:
        text = f'{params.label_smoothing:g} would leave less for the true identity than for "others"; use 0.5 or less'
        yield Conflict(("label_smoothing", "label_smoothing_over"), text)
    options = {
        "softmax_margin": margin,
        "focal_gamma": params.focal_gamma,
        "label_smoothing": params.label_smoothing,
        "classification_loss": name != "softmax",
        "classification_weights": params.classification_weights,
    }
    for key, on in options.items():
        # Without labels the params may be those of an earlier training, and no classification loss is expected.
        if on and params.tri_loss_lambda_cls == 0 and not params.is_unsupervised:
            text = "changes the classification loss, but tri_loss_lambda_cls is 0; set one of them"
            yield Conflict((key, "tri_loss_lambda_cls"), text)


def weighted_branches_exist(params: Params) -> Iterator[Conflict]:
    """Weights of the classification loss are those of branches that the network has."""
    model = params.model_params
    keys = ("model_params.head",)
    if model.head == "pcb":
        keys = ("model_params.pcb_n_parts", "model_params.feature_global_dim")
    for name in params.classification_weights:
        if name not in model.branches:
            text = f'no branch "{name}"; with this {" and ".join(keys)} there is {_named(model.branches)}'
            yield Conflict(("classification_weights", *keys), text)


def _named(branches: Iterable[str]) -> str:
    return " and ".join(f'"{name}"' for name in branches)
