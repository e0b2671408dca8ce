"""Starting from an earlier checkpoint."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from models.network import ReidNetwork
from utils.checkpoint import check_finite, read_weights
from utils.errors import DataError

BACKBONE = "backbone."

logger = logging.getLogger(__name__)


def load_snapshot(network: ReidNetwork, path: Path) -> None:
    """Load one of our checkpoints, or a state dict with names of another framework, into a network.

    These are torchvision, timm, those whose checkpoints can be imported, and what self-supervised training writes. Only
    tensors that fit are loaded; a snapshot may lack layers or have other heads and identities. The log names the
    others.

    Raises:
        DataError: the file is unreadable or holds NaN, none of its tensors fits, or the backbone's are of another
            shape.
    """
    # Only who starts from a file imports it.
    from models.importers.pretraining import translated

    state = read_weights(path)
    check_finite(path, state)
    try:
        state = network.backbone.with_own_names(translated(state))
    except (ValueError, DataError) as error:
        raise DataError(f"pretrain_snapshot: {path}: {error}") from error
    state = network.backbone.complete_state(_with_our_names(state, network), BACKBONE)
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not any(key.endswith("weight") for key in fitting):
        raise DataError(f"pretrain_snapshot: {path}: none of its {len(state)} tensors fits the network; another model?")
    resized = {
        key: f"{key} {tuple(state[key].shape)}, here {tuple(own[key].shape)}"
        for key in sorted(state.keys() & own.keys() - fitting.keys())
    }
    if wrong := [text for key, text in resized.items() if key.startswith(BACKBONE)]:
        raise DataError(
            f"pretrain_snapshot: {path}: {len(wrong)} tensors have other shapes than the backbone of "
            f"model_params.model: {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}; another model?"
        )
    network.load_state_dict(fitting, strict=False)
    loaded, all_tensors = (len(_without_counters(names)) for names in (fitting, own))
    logger.info("pretrain_snapshot: %d of the network's %d tensors loaded from %s", loaded, all_tensors, path)
    _warn_of("not in the file, left as initialised", sorted(own.keys() - state.keys()))
    _warn_of("of another shape, left as initialised", list(resized.values()))
    _warn_of("in the file, not in the network", sorted(state.keys() - own.keys()))


def _with_our_names(state: Mapping[str, Tensor], network: ReidNetwork) -> dict[str, Tensor]:
    """Names of a bare backbone get our prefix; names of a whole network stay."""
    own = {name.partition(".")[0] for name in network.backbone.state_dict()}
    return {f"{BACKBONE}{key}" if key.partition(".")[0] in own else key: value for key, value in state.items()}


def _without_counters(names: Iterable[str]) -> list[str]:
    # The running averages use a fixed momentum, so the batch counter is not used.
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _warn_of(what: str, names: list[str]) -> None:
    if names := _without_counters(names):
        logger.warning("pretrain_snapshot: %d tensors %s: %s", len(names), what, ", ".join(names))
