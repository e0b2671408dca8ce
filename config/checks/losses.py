"""Losses: each has what it needs, and what is set for it has an effect."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict, triplet_is_on
from config.params import Params

CLASSIFIER = "model_params.classifier"


def triplets_can_form(params: Params) -> Iterator[Conflict]:
    """A triplet needs two images of one identity and one of another in the same batch."""
    sampling = params.batch_sampling_params
    if not triplet_is_on(params):
        return
    needs = f"the triplet loss (tri_loss_margin {params.tri_loss_margin}) needs at least 2"
    if not sampling.class_balanced:
        keys = ("tri_loss_margin", "batch_sampling_params.class_balanced")
        text = 'the triplet loss needs batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here'
        yield Conflict(keys, text)
    elif sampling.K < 2:
        text = f"{needs} images of an identity, got K {sampling.K}"
        yield Conflict(("batch_sampling_params.K", "tri_loss_margin"), text)
    elif sampling.P < 2:
        yield Conflict(("batch_sampling_params.P", "tri_loss_margin"), f"{needs} identities, got P {sampling.P}")


def some_loss_is_on(params: Params) -> Iterator[Conflict]:
    """Without any loss there is nothing to train."""
    distillation = params.distillation
    distils = distillation.lambda_logits > 0 or distillation.lambda_embedding > 0
    if params.tri_loss_lambda_cls == 0 and not triplet_is_on(params) and not distils:
        keys = ("tri_loss_lambda_cls", "tri_loss_margin", "tri_loss_lambda_tri", "distillation")
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
        if name == "global" and triplet_is_on(params) and model.pcb_n_parts > 0 and model.feature_global_dim == 0:
            text = (
                f'"global" needs a global branch beside the {model.pcb_n_parts} stripes of model_params.pcb_n_parts; '
                'give model_params.feature_global_dim, or use "parts" or "concat"'
            )
            keys = ("tri_loss_on", "model_params.pcb_n_parts", "model_params.feature_global_dim", "tri_loss_margin")
            yield Conflict(keys, text)


def gathering_has_triplets(params: Params) -> Iterator[Conflict]:
    """Embeddings are gathered for the triplet loss."""
    if params.gather_embeddings and not triplet_is_on(params):
        keys = ("gather_embeddings", "tri_loss_margin", "tri_loss_lambda_tri")
        yield Conflict(keys, "is for the triplet loss, but tri_loss_margin or tri_loss_lambda_tri is 0")


def triplet_weights_have_triplets(params: Params) -> Iterator[Conflict]:
    """Adaptive weights are those of the triplet loss."""
    if params.tri_loss_adaptive_weight and not triplet_is_on(params):
        keys = ("tri_loss_adaptive_weight", "tri_loss_margin", "tri_loss_lambda_tri")
        yield Conflict(keys, "weighs the triplet loss, but tri_loss_margin or tri_loss_lambda_tri is 0")


def margins_follow_steps(params: Params) -> Iterator[Conflict]:
    """A list of margins and the steps between them need each other."""
    margins, step = params.softmax_margin, params.softmax_margin_step
    keys = ("softmax_margin", "softmax_margin_step")
    if margins == ():
        yield Conflict(keys[:1], "the list has no margins; use 0 for none")
    elif isinstance(margins, tuple) and len(margins) > 1 and step == 0:
        text = f"the list needs softmax_margin_step, the iterations for which each of its {len(margins)} margins holds"
        yield Conflict(keys, text)
    elif not isinstance(margins, tuple) and step > 0:
        yield Conflict(keys[::-1], f"needs a list of margins, but softmax_margin is the single number {margins:g}")


def classifier_fits(params: Params) -> Iterator[Conflict]:
    """Margin and scale are those of cosines, and a cosine classifier has no bias."""
    model = params.model_params
    margins = params.softmax_margin if isinstance(params.softmax_margin, tuple) else (params.softmax_margin,)
    if model.classifier == "linear" and any(margins):
        text = f'is taken off a cosine, but {CLASSIFIER} is not "cosine"; set that, or 0 here'
        yield Conflict(("softmax_margin", CLASSIFIER), text)
    if model.classifier == "linear" and model.cosine_scale > 0:
        text = f'is the scale of a cosine classifier, but {CLASSIFIER} is not "cosine"'
        yield Conflict(("model_params.cosine_scale", CLASSIFIER), text)
    if model.classifier == "cosine" and model.classifier_bias:
        text = "a cosine classifier has no bias; set model_params.classifier_bias to false"
        yield Conflict((CLASSIFIER, "model_params.classifier_bias"), text)
    if params.tri_loss_lambda_cls == 0:
        changes = {
            "softmax_margin": any(margins),
            "focal_gamma": params.focal_gamma,
            "label_smoothing": params.label_smoothing,
        }
        for key, on in changes.items():
            if on:
                text = "changes the classification loss, but tri_loss_lambda_cls is 0; set one of them"
                yield Conflict((key, "tri_loss_lambda_cls"), text)


def distillation_has_a_teacher(params: Params) -> Iterator[Conflict]:
    """A weight needs a teacher, and a teacher a weight."""
    section = params.distillation
    weights = ("lambda_logits", "lambda_embedding")
    given = [name for name in weights if getattr(section, name) > 0]
    for name in given:
        if not section.teacher:
            text = "needs distillation.teacher, the network to learn from"
            yield Conflict((f"distillation.{name}", "distillation.teacher"), text)
    if section.teacher and not given:
        text = "teaches nothing: distillation.lambda_logits and distillation.lambda_embedding are 0"
        yield Conflict(("distillation.teacher", *(f"distillation.{name}" for name in weights)), text)


CHECKS: tuple[Check[Params], ...] = (
    triplets_can_form,
    some_loss_is_on,
    triplet_features_exist,
    gathering_has_triplets,
    triplet_weights_have_triplets,
    margins_follow_steps,
    classifier_fits,
    distillation_has_a_teacher,
)
