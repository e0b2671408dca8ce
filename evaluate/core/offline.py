"""Offline evaluation: a trained network on one or several data sets, or saved embeddings."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from config.eval_params import EvalParams
from config.params import Params
from data.dataset import read_dataset
from data.features import read_features
from evaluate.core.context import EvalContext
from evaluate.core.load_model import load_trained_network
from evaluate.core.plugins import Evaluation, plugin_options
from models.network import Embedder
from utils.checkpoint import MODEL_BEST, is_finished, load_checkpoint, model_in
from utils.device import choose_device, describe_device
from utils.errors import DataError, ParamsError
from utils.files import expand_user, write_json
from utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)

FEATURES = ".npz"
DEFAULT_PLUGIN = "market_evaluate"

T = TypeVar("T")


class Subject(NamedTuple):
    """What is evaluated: its path, and the context of each evaluation by name of its data set."""

    path: Path
    evaluations: Mapping[str, EvalContext]


class Outcome(NamedTuple):
    """The result of one evaluation, and the seconds it took."""

    params: Params
    evaluation: Evaluation
    seconds: float


def load_subject(options: EvalParams) -> Subject:
    """The network or the features that `model_path` names.

    Raises:
        DataError: there are none, or they cannot be used.
        ParamsError: the params in a checkpoint, or their combination with `options`, are not valid.
    """
    path = expand_user(options.model_path)
    return load_features(path, options) if path.suffix.lower() == FEATURES else load_trained(find_model(path), options)


def find_model(path: Path) -> Path:
    """The checkpoint that `model_path` means: a file, that of a run's or hub folder, or of the newest finished run.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return path
    if model := model_in(path):
        return model
    if not path.is_dir():
        raise DataError(
            f"model_path: {path}: no such file or folder; train a model first, or name a .pth, .onnx or .npz file"
        )
    finished = [model for model in path.rglob(MODEL_BEST) if is_finished(model.parent)]
    if not finished:
        raise DataError(f"model_path: {path}: no finished run in this folder (no {MODEL_BEST}); train a model first")
    return max(finished, key=lambda model: (model.stat().st_mtime_ns, model))


def trained_plugin(path: Path) -> str | None:
    """The evaluation plug-in of a checkpoint, or for features; None if the model was trained without one.

    Raises:
        DataError: there is no such model, or it is no checkpoint.
    """
    if path.suffix.lower() == FEATURES:
        return DEFAULT_PLUGIN
    return plugin_in(load_checkpoint(find_model(path)).params)


def plugin_in(params: Mapping[str, Any]) -> str | None:
    """The evaluation plug-in in the params of a model."""
    section = params.get("evaluation_params")
    name = section.get("type") if isinstance(section, Mapping) else None
    return name if isinstance(name, str) else None


def load_features(path: Path, options: EvalParams) -> Subject:
    """Embeddings saved by this framework or by any other, to be evaluated without a network.

    Raises:
        DataError: the file is missing or damaged.
        ParamsError: `options` name a data set, which would not be used.
    """
    for key in ("batches_dir", "data_layout", "data_dirs", "test_list", "retrieval_of"):
        if getattr(options, key):
            raise ParamsError(f"{key}: {path} already holds the embeddings of a data set; leave {key} out")
    evaluation = options.evaluation_params
    if evaluation is None or evaluation.type is None:
        evaluation = plugin_options(DEFAULT_PLUGIN)(type=DEFAULT_PLUGIN)
    for key in ("flip", "msmt_dir"):
        if getattr(evaluation, key, None):
            raise ParamsError(f"evaluation_params.{key}: {path} holds features, and no images; leave {key} out")
    params = Params(batches_dir=str(path), parallels=options.parallels, evaluation_params=evaluation)
    # Set afterwards: validation as a part of the params would convert it to the base class.
    params = params.model_copy(update={"evaluation_params": evaluation})
    features = read_features(path)
    logger.info("features %s; %s", path, describe_device(choose_device(options.parallels)))
    return Subject(path, {str(path): EvalContext(params, features=features)})


def load_trained(path: Path, options: EvalParams) -> Subject:
    """A trained network on its device.

    Raises:
        DataError: the file is no checkpoint, or its weights do not fit its params.
        ParamsError: the params in it, or their combination with `options`, are not valid.
    """
    trained, labels, network, _ = load_trained_network(path)
    device = choose_device(options.parallels)
    logger.info("model %s; %s", path, describe_device(device))
    if differences := options.expected.differences(trained):
        logger.warning("%s has %s; the checkpoint decides", path, ", ".join(differences))
    if device.type == "cpu" and trained.keep_freed_memory:
        keep_freed_memory()
    if options.retrieval_of is not None:
        if trained.model_params.neck == "none" and not trained.model_params.embedding_relu:
            text = 'has no effect: it was trained with model_params.neck "none"; leave retrieval_of out'
            raise ParamsError(f"retrieval_of: {path} {text}")
        network.retrieval_of = options.retrieval_of
        model = trained.model_params.model_copy(update={"retrieval_of": options.retrieval_of})
        trained = trained.model_copy(update={"model_params": model})
    network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return subject_of(path, trained, Embedder(network, labels).eval(), options)


def subject_of(path: Path, trained: Params, embedder: nn.Module, options: EvalParams) -> Subject:
    """A network and the data sets that `options` name.

    Args:
        path: of its file.
        trained: the params it was trained with.
        embedder: as evaluation plug-ins get it.
        options: which data sets, and how.

    Raises:
        DataError: one of several data sets is not there.
        ParamsError: a data set is named that is not measured.
    """
    evaluations: dict[str, EvalContext] = {}
    every = options.as_trained(trained)
    for params in every:
        folder = params.data_name
        name = params.evaluation_params.data_set(folder)
        if name in evaluations and not options.data_sets:
            continue  # a plug-in that measures data of its own
        if name in evaluations:
            raise ParamsError(f"data_dirs: {name} is evaluated in any case; leave data_dirs out")
        if params.evaluation_params.same_cameras and len(trained.sources) > 1 and folder not in trained.sources:
            listing = ", ".join(trained.sources)
            text = f"{folder} is none of the data sets of the training, each with cameras of its own: {listing}"
            raise ParamsError(f"evaluation_params.same_cameras: {text}")
        if len(every) > 1:
            # Before any is evaluated: the last might turn out to be missing after hours.
            read_dataset(params)
        source = trained.sources.index(folder) if folder in trained.sources else 0
        evaluations[name] = EvalContext(params, embedder, source=source)
    return Subject(path, evaluations)


def write_result(path: Path, subject: Subject, outcomes: Sequence[Outcome]) -> None:
    """The outcome as one JSON object, of several data sets under "data_sets".

    Metrics are fractions; beside them stand the counts, the protocol and all other settings, and the seconds.
    """
    results = []
    for params, evaluation, seconds in outcomes:
        options = params.evaluation_params
        results.append(
            {
                "data_set": options.data_set(params.data_name),
                "protocol": getattr(options, "protocol", options.type),
                "evaluation_params": options.model_dump(mode="json"),
                "score": evaluation.score_name,
                "metrics": evaluation.metrics,
                "counts": evaluation.counts,
                "seconds": round(seconds, 3),
            }
        )
    details = results[0] if len(results) == 1 else {"data_sets": results}
    write_json(path, {"model": str(subject.path), **details})


def write_pictures(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Each picture (H, W, 3) uint8 as folder/NAME.png, those of several data sets in a folder for each.

    Raises:
        ParamsError: there is none.
    """
    if not any(outcome.evaluation.pictures for outcome in outcomes):
        raise ParamsError("pictures_dir: this evaluation made no pictures; leave pictures_dir out")
    for number, outcome in enumerate(outcomes, start=1):
        inner = folder if len(outcomes) == 1 else folder / f"{number}_{Path(outcome.params.data_name).name}"
        inner.mkdir(parents=True, exist_ok=True)
        for name, picture in outcome.evaluation.pictures.items():
            Image.fromarray(np.ascontiguousarray(picture)).save(inner / f"{name}.png")


def offered(value: T | None, key: str, outcome: Outcome) -> T:
    """What `key` asks to write; a ParamsError where the plug-in offers none."""
    if value is None:
        plugin = outcome.params.evaluation_params.type
        raise ParamsError(f"{key}: evaluate/{plugin}.py offers no {key.partition('_')[0]}; leave {key} out")
    return value
