"""Starting from an earlier checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from models.network import ReidNetwork
from utils.checkpoint import check_finite, read_weights
from utils.errors import DataError

BACKBONE = "backbone."

logger = logging.getLogger(__name__)


def load_snapshot(network: ReidNetwork, path: Path) -> None:
    """Load one of our checkpoints, or a state dict with names of torchvision, timm or torchreid, into a network.

    Only tensors that fit are loaded; a snapshot may lack layers or have other identities. The log names the others.

    Raises:
        DataError: the file is unreadable or holds NaN, or none of its tensors fits.
    """
    state = read_weights(path)
    check_finite(path, state)
    try:
        state = network.backbone.with_own_names(state)
    except ValueError as error:
        raise DataError(f"pretrain_snapshot: {path}: {error}") from error
    state = network.backbone.complete_state(_with_our_names(state, network), BACKBONE)
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not any(key.endswith("weight") for key in fitting):
        raise DataError(f"pretrain_snapshot: {path}: none of its {len(state)} tensors fits the network; another model?")
    network.load_state_dict(fitting, strict=False)
    logger.info("pretrain_snapshot: %d of the network's %d tensors loaded from %s", len(fitting), len(own), path)
    resized = [
        f"{key} {tuple(state[key].shape)}, here {tuple(own[key].shape)}"
        for key in state.keys() & own.keys() - fitting.keys()
    ]
    _warn_of("not in the file, left as initialised", sorted(own.keys() - state.keys()))
    _warn_of("of another shape, left as initialised", sorted(resized))
    _warn_of("in the file, not in the network", sorted(state.keys() - own.keys()))


def _with_our_names(state: Mapping[str, Tensor], network: ReidNetwork) -> dict[str, Tensor]:
    """Names of a bare backbone get our prefix; names of a whole network stay."""
    own = {name.partition(".")[0] for name in network.backbone.state_dict()}
    return {f"{BACKBONE}{key}" if key.partition(".")[0] in own else key: value for key, value in state.items()}


def _warn_of(what: str, names: list[str]) -> None:
    # The running averages use a fixed momentum, so the batch counter is not used.
    names = [name for name in names if not name.endswith("num_batches_tracked")]
    if names:
        logger.warning("pretrain_snapshot: %d tensors %s: %s", len(names), what, ", ".join(names))
