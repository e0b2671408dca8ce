"""Files from which other frameworks' trainings start, or which `pretrain_snapshot` names."""

import torch
from torch import Tensor

from models.importers import solider
from models.importers.registry import framework_of, import_state
from models.importers.weights import ForeignWeights

BACKBONE = "backbone."


def translated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, as far as no backbone knows its names itself.

    Known are the checkpoints that can be imported, and the files of self-supervised training: SOLIDER's, those of MoCo
    (LUPerson), which trains two encoders and keeps both, and of PASS, which has the position of the class token by
    itself and more tokens, which stay unused.

    Raises:
        DataError: a checkpoint of a known framework, but of a network that is not supported.
    """
    framework = framework_of(state.keys())
    if framework not in (None, "torchreid"):
        return import_state(state, framework).tensors
    state = {key.removeprefix("encoder_q."): value for key, value in state.items() if not key.startswith("encoder_k.")}
    for prefix in ("", BACKBONE):
        if (first := state.pop(f"{prefix}cls_pos", None)) is not None:
            state[f"{prefix}pos_embed"] = torch.cat([first, state[f"{prefix}pos_embed"]], dim=1)
        if f"{prefix}{solider.ATTENTION}" in state:
            weights = ForeignWeights(state)
            solider.move_swin(weights, prefix)
            return {**weights.own, **weights.left}
    return state
