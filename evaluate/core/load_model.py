"""Load a trained network from its checkpoint."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from models.network import ReidNetwork, build_network, camids_in
from utils.checkpoint import MODEL_BEST, check_finite, load_checkpoint, model_in
from utils.errors import DataError
from utils.files import expand_user


class Trained(NamedTuple):
    """A network and what it was trained with and on."""

    params: Params
    labels: Sequence[int]
    """Sorted pids of its training set; the position is the class index."""
    network: ReidNetwork
    """On the CPU."""
    metrics: Mapping[str, float]
    """Metrics of the evaluation in training, fractions; empty if there was none."""


def find_network(named: str, key: str, advice: str) -> Path:
    """The re-ID checkpoint that a key of the params names: a file, or that of a run's or hub folder.

    Args:
        named: the file or folder.
        key: what names it, for messages: "distillation.teacher".
        advice: what to do first where there is none.

    Raises:
        DataError: there is none.
    """
    path = expand_user(named)
    path = model_in(path) or (path / MODEL_BEST if path.is_dir() else path)
    if not path.is_file():
        raise DataError(f"{key}: {path}: no such file; {advice}, or give its path as seen from {Path.cwd()}")
    return path


def load_trained_network(path: Path) -> Trained:
    """The network in a checkpoint.

    Raises:
        DataError: the file is no checkpoint, or its weights do not fit its params or are not finite.
        ParamsError: the params in it are not valid.
    """
    checkpoint = load_checkpoint(path)
    params, _ = params_from_dict(checkpoint.params, str(path), plugin_options)
    # On the meta device: no initial weights are drawn only to be replaced.
    size, camids = (params.img_h, params.img_w), camids_in(checkpoint.model)
    described = params.model_params, len(checkpoint.labels), size, camids
    with torch.device("meta"):
        network = build_network(*described)
    own = network.state_dict()
    if any(name not in own for name, _ in network.named_buffers()):
        # They are in no checkpoint but computed, such as the positions of a rotary embedding.
        network = build_network(*described)
    check_finite(path, checkpoint.model)
    if checkpoint.model and own.keys().isdisjoint(checkpoint.model):
        # Otherwise the message would name every weight of both.
        raise DataError(f"{path}: holds no re-ID network; name a file that start_train made, {MODEL_BEST}")
    try:
        # Converted to the network's dtypes, as `assign` replaces its tensors.
        weights = {
            name: value.to(own[name].dtype) if name in own else value for name, value in checkpoint.model.items()
        }
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{path}: {_why(checkpoint.model, own)}") from error
    return Trained(params, checkpoint.labels, network, checkpoint.metrics)


def digest_of(trained: Trained) -> str:
    """A hash of the weights and of the size, normalisation and interpolation of the images."""
    params = trained.params
    augmentation = params.data_augmentation
    shown = f"{params.img_h} {params.img_w} {augmentation.normalisation} {augmentation.interpolation}"
    return digest_of_weights(trained.network.state_dict(), shown)


def digest_of_weights(weights: Mapping[str, Tensor], more: str = "") -> str:
    """SHA-256 of tensors in their order, and of a text, in hexadecimal."""
    digest = hashlib.sha256(more.encode())
    for tensor in weights.values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _why(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Why weights do not fit a network, in a few words."""
    if any(name.startswith("generator.") for name in weights):
        return "holds a person generator, not a re-ID network"
    differing = [
        name
        for name in {**own, **weights}
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    more = f" and {len(differing) - 2} more" if len(differing) > 2 else ""
    return f"the weights do not fit the params beside them: {', '.join(differing[:2])}{more}"
