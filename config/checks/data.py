"""Data sets to train on and to evaluate on, and batches that are balanced between them."""

from collections.abc import Iterator

from config.checks.conflict import Conflict, multiples
from config.errors import shown
from config.params import Params
from config.sections import nearest

BALANCE, SCORE_OF = "batch_sampling_params.balance", "evaluation_params.score_of"


def data_sets_fit(params: Params) -> Iterator[Conflict]:
    """Data sets are named once, and what is said of several test sets has some to be said of."""
    for key, paths in (("batches_dir", params.sources), ("test_dirs", params.test_dirs)):
        for path in dict.fromkeys(path for path in paths if paths.count(path) > 1):
            yield Conflict((key,), f"names {shown(path)} twice")
    if params.label_fixes and len(params.sources) > 1:
        text = "corrects the labels of one data set, but batches_dir names several"
        yield Conflict(("label_fixes", "batches_dir"), text)
    options = params.evaluation_params
    if options.has_training_classes and len(params.data_sets) > 1:
        keys = ("evaluation_params.type", "batches_dir", "test_dirs")
        yield Conflict(keys, f"{options.type} measures the classes of a single data set, but there are several")
    others = [path for path in params.test_dirs if path not in params.sources]
    if options.same_cameras and others and len(params.sources) > 1:
        text = f"{shown(others[0])} cannot have the cameras of the training, as each data set has cameras of its own"
        yield Conflict(("evaluation_params.same_cameras", "batches_dir", "test_dirs"), text)
    if not options.score_of:
        return
    names = [params.data_names[path] for path in params.test_sets]
    if len(names) == 1:
        yield Conflict(
            (SCORE_OF, "batches_dir", "test_dirs"), "chooses among test sets, but there is one; leave it out"
        )
    elif options.score_of not in names:
        near = nearest(options.score_of, names)
        hint = f"; did you mean {shown(near)}?" if near else "."
        text = f"no test set {shown(options.score_of)}{hint} Allowed: {', '.join(map(shown, names))}"
        yield Conflict((SCORE_OF, "batches_dir", "test_dirs"), text)


def balance_fits(params: Params) -> Iterator[Conflict]:
    """Balanced batches are P x K batches, with something to balance."""
    sampling, number = params.batch_sampling_params, len(params.sources)
    if sampling.balance is None:
        return
    if not sampling.class_balanced:
        keys = (BALANCE, "batch_sampling_params.class_balanced")
        yield Conflict(keys, "is for P x K sampling; set class_balanced true, or leave it out")
    if sampling.balance == "camera":
        if sampling.K < 2:
            text = '"camera" is about the K images of an identity, and K is 1; leave it out'
            yield Conflict((BALANCE, "batch_sampling_params.K"), text)
    elif number == 1:
        text = f"{shown(sampling.balance)} is for several data sets, but batches_dir names one; leave it out"
        yield Conflict((BALANCE, "batches_dir"), text)
    elif sampling.balance == "source" and sampling.P % number:
        text = (
            f"{sampling.P} identities cannot be shared equally by {number} data sets; {multiples(sampling.P, number)}"
        )
        yield Conflict(("batch_sampling_params.P", BALANCE, "batches_dir"), text)
