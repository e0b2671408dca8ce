"""generator.pth: a person generator as it lies on disk, with the discriminator it learnt from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from gan.steps import GanStepper
from models.generator import Generator, build_generator
from utils.checkpoint import GENERATOR, Checkpoint, check_finite, load_checkpoint, read_weights
from utils.errors import DataError
from utils.files import expand_user

logger = logging.getLogger(__name__)

OF_GENERATOR, OF_DISCRIMINATOR = "generator.", "discriminator."
CONDITION = OF_GENERATOR + "condition.weight"


class TrainedGenerator(NamedTuple):
    """A generator and what it was trained with."""

    params: Params
    generator: Generator
    """On the CPU, in evaluation mode."""


def checkpoint_of(stepper: GanStepper, params: Params, pids: Sequence[int], metrics: Mapping[str, float]) -> Checkpoint:
    """The averaged generator and the discriminator as they are, a copy, with what was measured of them."""
    nets = {OF_GENERATOR: stepper.average, OF_DISCRIMINATOR: stepper.discriminator}
    model = {
        prefix + name: tensor.detach().cpu().clone()
        for prefix, net in nets.items()
        for name, tensor in net.state_dict().items()
    }
    return Checkpoint(model, params.model_dump(mode="json"), list(pids), dict(metrics))


def load_generator(path: Path, key: str) -> TrainedGenerator:
    """The generator in a file of train_gan, or in the run folder at that path.

    Args:
        path: of the file or folder.
        key: what names it, for messages: "gan_params.pretrain_snapshot_g".

    Raises:
        DataError: there is none, or its weights do not fit its params or are not finite.
        ParamsError: the params in it are not valid.
    """
    path = found(path, key)
    checkpoint = load_checkpoint(path)
    weights = _of(checkpoint.model, OF_GENERATOR)
    if not weights:
        raise DataError(f"{key}: {path}: holds no person generator; name a file that train_gan made, {GENERATOR}")
    check_finite(path, weights)
    params, _ = params_from_dict(checkpoint.params, str(path), plugin_options)
    # A weight without dimensions is told of below, as one that does not fit.
    condition_dim = checkpoint.model[CONDITION].shape[-1:].numel() if CONDITION in checkpoint.model else 0
    # Without memory of its own: no initial weights are drawn only to be replaced.
    with torch.device("meta"):
        generator = build_generator(params.gan_params, condition_dim)
    try:
        generator.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(
            f"{key}: {path}: the weights do not fit the params beside them ({_shortened(error)})"
        ) from error
    return TrainedGenerator(params, generator.eval().requires_grad_(False))


def start_from(net: nn.Module, prefix: str, named: str, key: str) -> None:
    """Give a network the weights of a snapshot, all of them.

    Args:
        net: a generator or a discriminator.
        prefix: of its weights in a file of train_gan; a bare state dict has none.
        named: the file, or the run folder it lies in; "" leaves the network as it is.
        key: the key that names it, for messages.

    Raises:
        DataError: the file cannot be read, or its weights are not those of such a network.
    """
    if not named:
        return
    path = found(Path(named), key)
    whole = read_weights(path)
    weights = _of(whole, prefix) or whole
    check_finite(path, weights)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{key}: {path}: not the weights of such a network ({_shortened(error)}); gan_params must give it the same "
            "img_h, input_dim, ngf, ndf, spectral_norm and condition"
        ) from error
    logger.info("%s: all %d tensors loaded from %s", key, len(weights), path)


def _shortened(error: RuntimeError, most: int = 200) -> str:
    """torch's last line, which may name every tensor there is."""
    text = str(error).splitlines()[-1].strip()
    return text if len(text) <= most else f"{text[:most]}..."


def found(path: Path, key: str) -> Path:
    """The file itself, or that in a run's folder.

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


def _of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights that begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
