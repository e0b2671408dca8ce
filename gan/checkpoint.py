"""generator.pth: a person generator with the discriminator it was trained with."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from config.gan import GanParams
from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from models.generator import Discriminator, Generator, build_generator
from utils.checkpoint import GENERATOR, Checkpoint, check_finite, load_checkpoint, read_weights
from utils.errors import DataError
from utils.files import expand_user

logger = logging.getLogger(__name__)

GENERATOR_PREFIX, DISCRIMINATOR_PREFIX = "generator.", "discriminator."
CONDITION = GENERATOR_PREFIX + "condition.weight"


class TrainedGenerator(NamedTuple):
    """A generator and the params it was trained with."""

    params: Params
    generator: Generator
    """On the CPU, in evaluation mode."""


def generator_checkpoint(
    generator: Generator,
    discriminator: Discriminator,
    params: Params,
    pids: Sequence[int],
    metrics: Mapping[str, float],
) -> Checkpoint:
    """A copy of both networks, with the metrics of the generator."""
    nets = {GENERATOR_PREFIX: generator, DISCRIMINATOR_PREFIX: discriminator}
    model = {
        prefix + name: tensor.detach().cpu().clone()
        for prefix, net in nets.items()
        for name, tensor in net.state_dict().items()
    }
    return Checkpoint(model, params.model_dump(mode="json"), list(pids), dict(metrics))


def load_generator(path: Path, key: str) -> TrainedGenerator:
    """The generator in a file of train_gan, or in a run's folder.

    Args:
        path: of the file or folder.
        key: the setting that names it, for messages: "gan_params.pretrain_snapshot_g".

    Raises:
        DataError: there is none, or its weights do not fit its params or are not finite.
        ParamsError: the params in it are not valid.
    """
    path = find_generator(path, key)
    checkpoint = load_checkpoint(path)
    weights = _with_prefix(checkpoint.model, GENERATOR_PREFIX)
    if not weights:
        raise DataError(f"{key}: {path}: holds no person generator; name a file that train_gan made, {GENERATOR}")
    check_finite(path, weights)
    params, _ = params_from_dict(checkpoint.params, str(path), plugin_options)
    condition_dim = checkpoint.model[CONDITION].shape[-1:].numel() if CONDITION in checkpoint.model else 0
    # On the meta device: no initial weights are drawn only to be replaced.
    with torch.device("meta"):
        generator = build_generator(params.gan_params, condition_dim)
    try:
        generator.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{key}: {path}: the weights do not fit the params beside them ({_brief(error)})") from error
    return TrainedGenerator(params, generator.eval().requires_grad_(False))


def load_snapshots(generator: Generator, discriminator: Discriminator, options: GanParams) -> None:
    """Load the weights of the snapshots that `gan_params` names; a network without one stays as it is.

    Raises:
        DataError: a file cannot be read, or its weights are not those of such a network.
    """
    _load_snapshot(generator, GENERATOR_PREFIX, options.pretrain_snapshot_g, "gan_params.pretrain_snapshot_g")
    _load_snapshot(discriminator, DISCRIMINATOR_PREFIX, options.pretrain_snapshot_d, "gan_params.pretrain_snapshot_d")


def _load_snapshot(net: nn.Module, prefix: str, snapshot: str, key: str) -> None:
    """Load all weights of a network from a file of train_gan, where their names have a prefix, or a bare state dict."""
    if not snapshot:
        return
    path = find_generator(Path(snapshot), key)
    model = read_weights(path)
    weights = _with_prefix(model, prefix) or model
    check_finite(path, weights)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{key}: {path}: not the weights of such a network ({_brief(error)}); gan_params must give it the same "
            "img_h, input_dim, ngf, ndf, spectral_norm and condition"
        ) from error
    logger.info("%s: all %d tensors loaded from %s", key, len(weights), path)


def find_generator(path: Path, key: str) -> Path:
    """The generator's file: the path itself, or the one in a run's folder.

    Raises:
        DataError: there is none.
    """
    path = expand_user(path)
    path = path / GENERATOR if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"{key}: {path}: no such file; train a generator first, python train.py --operation train_gan, or give "
            f"its path as seen from {Path.cwd()}"
        )
    return path


def _brief(error: RuntimeError, max_length: int = 200) -> str:
    """The last line of torch's message, which may name every tensor there is."""
    text = str(error).splitlines()[-1].strip()
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def _with_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
