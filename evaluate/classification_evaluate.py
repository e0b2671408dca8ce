"""Image classification: how often an image's own class has the highest score, or one of the k highest."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from config.evaluation import EvaluationParams
from config.params import Params
from data.dataset import read_dataset
from data.samples import Dataset, Sample
from evaluate.core.classification.accuracy import Classified
from evaluate.core.classification.confusion import confusion_counts, confusion_picture, most_confused
from evaluate.core.context import EvalContext, title_of
from evaluate.core.extract import Reading, read_images
from evaluate.core.report.classification import classification_report
from utils.errors import DataError, ParamsError

logger = logging.getLogger(__name__)


class Options(EvaluationParams):
    """The keys of evaluation_params when its type is "classification_evaluate"."""

    has_training_classes = True
    topk: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5), min_length=1)
    """The k of each top-k accuracy; 1 always is one, and a k that is not below the number of classes is left out."""
    confusion_classes: int = Field(default=20, ge=0, le=100)
    """Classes in the picture of the confusion matrix, those with most errors; 0 = no picture."""


def run_eval(config: EvalContext) -> dict[str, Any]:
    """Classify the validation images of the data set in `config.batches_dir`.

    Returns:
        top1 and the other `topk`, mean_class_accuracy and worst_class_accuracy as fractions, counts (num_...), the
        picture "confusion_matrix" unless turned off, "report", and "score": "top1".

    Raises:
        DataError: no validation images, or images of classes that the network was not trained on.
        ParamsError: the network gives no class scores.
    """
    options = config.evaluation_params
    assert isinstance(options, Options)
    _class_scores(config)  # first: a feature file is no data set
    dataset = read_dataset(config.params)
    found = classify(config, dataset)
    topk = _informative(options.topk, found.num_classes)
    result: dict[str, Any] = {
        **{f"top{k}": found.top(k) for k in topk},
        "mean_class_accuracy": found.mean_class_accuracy,
        "worst_class_accuracy": found.class_accuracy[found.worst_class],
        "score": "top1",
        "num_images": len(found.samples),
        "num_classes": found.num_classes,
        "num_classes_without_images": int((found.num_images == 0).sum()),
    }
    if options.confusion_classes:
        classes = most_confused(found.truth, found.predicted, found.num_classes, options.confusion_classes)
        counts = confusion_counts(found.truth, found.predicted, found.num_classes, classes)
        names = [found.names[index] for index in classes.tolist()]
        result["confusion_matrix"] = confusion_picture(counts, names, found.num_classes)
    facts = [("Data set", config.data_name), ("Model", config.model)]
    subtitle = f"{len(found.samples):,} images of {found.num_classes:,} classes, {config.model}."
    title = title_of(config.data_name)
    result["report"] = lambda: classification_report(found, topk, title, subtitle, facts)
    return result


def check_data(dataset: Dataset, config: Params) -> None:
    """Check before training that there is something to evaluate, and log what is unusual but legal.

    Raises:
        DataError: there is not; the message names the folder.
        ParamsError: the params train no classifier.
    """
    options = config.evaluation_params
    assert isinstance(options, Options)
    _check(dataset, config)
    trained, shown = ({sample.pid for sample in samples} for samples in (dataset.train, dataset.val))
    if len(shown) < len(trained):
        without = len(trained) - len(shown)
        logger.info("%s: %d of %d classes have no validation images", config.data_name, without, len(trained))
    if left_out := sorted(set(options.topk) - set(_informative(options.topk, len(trained)))):
        names = ", ".join(f"top{k}" for k in left_out)
        logger.info("%s: %s left out: always 100%% of %d classes", config.data_name, names, len(trained))


def classify(config: EvalContext, dataset: Dataset) -> Classified:
    """The validation images with the class scores that `config.online_net` gives them.

    The network needs the method `logits`, normalised images (B, 3, H, W) -> class scores (B, C), and the attribute
    `labels`, the pid of each class.

    Raises:
        DataError, ParamsError: as for `run_eval`.
        ValueError: the network gives another number of scores than it has labels.
    """
    _check(dataset, config.params)
    reading, labels = _class_scores(config)
    _check_same_classes(dataset, labels, config.params)
    samples, scores = read_images(config, dataset.val, "val", reading)
    if scores.shape[1] != len(labels):
        raise ValueError(f"online_net: {scores.shape[1]} class scores for {len(labels)} labels")
    index_of = {pid: index for index, pid in enumerate(labels)}
    truth = torch.tensor([index_of[sample.pid] for sample in samples])
    names = class_names([*dataset.train, *dataset.val])
    return Classified(samples, truth, scores, [names[pid] for pid in labels])


def _class_scores(config: EvalContext) -> tuple[Reading, Sequence[int]]:
    """The network's method that gives class scores, and the pid of each class; a ParamsError where it has none."""
    net = config.network
    reading: Reading | None = getattr(net, "logits", None)
    labels: Sequence[int] = getattr(net, "labels", ())
    if reading is None or not labels:
        what = "a feature file holds" if net is None else f"{type(net).__name__}, the network to evaluate, gives"
        raise ParamsError(
            f"evaluation_params.type: classification_evaluate needs class scores, and {what} embeddings only; "
            f"use an evaluation of embeddings such as market_evaluate"
        )
    return reading, labels


def class_names(samples: Sequence[Sample]) -> dict[int, str]:
    """Name of each pid: that of the folder its images lie in, in characters that can be shown."""
    folders = {sample.pid: sample.path.parent.name for sample in samples}
    return {pid: "".join(c if c.isprintable() else "?" for c in name) for pid, name in folders.items()}


def _informative(topk: Sequence[int], num_classes: int) -> list[int]:
    """1 and the other k of `topk`, ascending, without those that any network achieves."""
    return sorted({1, *(k for k in topk if k < num_classes)})


def _check(dataset: Dataset, config: Params) -> None:
    folder = config.data_name
    if config.tri_loss_lambda_cls == 0:
        raise ParamsError("tri_loss_lambda_cls: 0 trains no classifier for classification_evaluate to measure")
    if not dataset.val:
        raise DataError(
            f"{folder}: no validation images; they are looked for in val/CLASS/ beside train/CLASS/. Data sets in "
            f"Market-1501's layout have none: evaluate them with market_evaluate"
        )
    _check_known(dataset.val, {sample.pid for sample in dataset.train}, folder)


def _check_same_classes(dataset: Dataset, labels: Sequence[int], config: Params) -> None:
    """A class index is the position of its folder among all names: with other folders it would mean another class."""
    present = {sample.pid for sample in dataset.train}
    # A class whose training images were all unreadable was not trained on, but its folder exists.
    may_lack = config.bad_images == "skip" and present > set(labels)
    if present != set(labels) and not may_lack:
        raise DataError(
            f"{config.data_name}: the {len(present)} classes in its training folder are not the {len(labels)} that "
            f"the network was trained on; evaluate it on those class folders"
        )
    _check_known(dataset.val, set(labels), config.data_name)


def _check_known(samples: Sequence[Sample], known: set[int], folder: str) -> None:
    unknown = class_names([sample for sample in samples if sample.pid not in known])
    if unknown:
        names = [unknown[pid] for pid in sorted(unknown)]
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise DataError(
            f"{folder}: {len(names)} of the validation classes have no training images: {listing}; "
            f"the network was not trained on them"
        )
