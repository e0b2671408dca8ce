"""Training without labels: nothing needs identities, and the options have an effect."""

from collections.abc import Iterator
from functools import reduce

from config.checks.conflict import Conflict
from config.errors import shown
from config.params import Params

SECTION = "clustering_params"
METHOD = f"{SECTION}.method"
OFF_WITHOUT_LABELS = {
    "tri_loss_lambda_cls": "is the weight of a classifier of identities",
    "center_loss.weight": "is for centers of identities",
    "gan_params.mix_ratio": "adds generated images to a classifier of identities",
    "model_params.spectral_trans": "transforms what a classifier of identities sees",
}
"""Settings that must be 0, and why."""


def labels_are_not_needed(params: Params) -> Iterator[Conflict]:
    """Without labels there are no classes that last, and nothing that is trained on them."""
    if not params.is_unsupervised:
        return
    for key, why in OFF_WITHOUT_LABELS.items():
        if reduce(getattr, key.split("."), params):
            yield Conflict((key, METHOD), f"{why}, but {METHOD} trains without labels; set {key} to 0")
    if params.distillation.teacher:
        text = f"was trained on the same identities, but {METHOD} trains without labels; leave one of them out"
        yield Conflict(("distillation.teacher", METHOD), text)
    if params.evaluation_params.has_training_classes:
        text = f'measures a classifier, but {METHOD} trains none; use "market_evaluate" or null'
        yield Conflict(("evaluation_params.type", METHOD), text)
    if not params.batch_sampling_params.class_balanced:
        text = f"must be true: with {METHOD} a batch has P clusters with K images each"
        yield Conflict(("batch_sampling_params.class_balanced", METHOD), text)
    if params.batch_sampling_params.balance in ("source", "one_source"):
        text = f'counts identities of each data set, but {METHOD} trains without labels; use null or "camera"'
        yield Conflict(("batch_sampling_params.balance", METHOD), text)


def clustering_options_are_used(params: Params) -> Iterator[Conflict]:
    """Options of the clustering need a method, those of a distance and of the memory need these."""
    section = params.clustering_params
    if section.k2 > section.k1:
        text = f"{section.k2} is more than the {section.k1} images of {SECTION}.k1"
        yield Conflict((f"{SECTION}.k2", f"{SECTION}.k1"), text)
    users = {
        "method": (None, tuple(name for name in type(section).model_fields if name != "method")),
        "distance": ("cosine", ("k1", "k2", "probes")),
        "weight": (0.0, ("proxies", "temperature", "momentum", "memory_update")),
    }
    for switch, (off, names) in users.items():
        for name in names if getattr(section, switch) == off else ():
            if getattr(section, name) != type(section).model_fields[name].default:
                keys = (f"{SECTION}.{name}", f"{SECTION}.{switch}")
                yield Conflict(keys, f"has no effect: {SECTION}.{switch} is {shown(off)}")
