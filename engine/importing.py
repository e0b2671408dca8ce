"""import_weights: the checkpoint of another framework becomes one of ours."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from config.load import params_from_dict
from evaluate.core.plugins import plugin_options
from models.importers.registry import import_state
from models.importers.weights import COUNTER, Imported, listed
from models.network import build_network, camids_in
from utils.checkpoint import Checkpoint, check_finite, read_weights, save_checkpoint
from utils.errors import DataError

logger = logging.getLogger(__name__)


def import_weights(path: Path, framework: str, out: Path | None, overrides: Sequence[str]) -> Path:
    """Write a foreign checkpoint as one of ours: without classifiers, as its classes are of unknown identities.

    Args:
        path: of the foreign checkpoint.
        framework: an entry of IMPORTERS.
        out: where to write; None: beside the checkpoint, with ".imported.pth" after its name.
        overrides: of --set, for what the file does not say.

    Returns:
        The path written.

    Raises:
        ParamsError: no such framework is known, or an override is invalid.
        DataError: the file cannot be read, or is another network than named.
    """
    out = out or path.with_name(f"{path.name}.imported.pth")
    if out.resolve() == path.resolve():
        raise DataError(f"--out {out}: is the file to import; name another")
    state = read_weights(path)
    check_finite(path, state)
    try:
        imported = import_state(state, framework)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    params, _ = params_from_dict(imported.params, f"{path} as {framework}", plugin_options, overrides)
    with torch.device("meta"):
        size, camids = (params.img_h, params.img_w), camids_in(imported.tensors)
        own = build_network(params.model_params, 0, size, camids).state_dict()
    model = _fitted(path, imported, own)
    save_checkpoint(out, Checkpoint(model, params.model_dump(mode="json"), [], {}))
    logger.info("%s: %d tensors used: %s", path, len(imported.used), ", ".join(imported.used))
    logger.info("%s: %d tensors unused: %s", path, len(imported.unused), ", ".join(imported.unused) or "none")
    for text in imported.assumed:
        logger.info("not in the file: %s; --set changes it", text)
    logger.info('written: %s; evaluate it with evaluator.py eval_params.json --set model_path="%s"', out, out)
    return out


def _fitted(path: Path, imported: Imported, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of our network.

    Raises:
        DataError: tensors are missing, left over or of another shape.
    """
    model: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, expected in own.items():
        if name in imported.tensors:
            model[name] = imported.tensors[name].to(expected.dtype).contiguous()
        elif not expected.numel():
            model[name] = torch.empty(expected.shape, dtype=expected.dtype)
        elif name.endswith(COUNTER):
            model[name] = torch.zeros(expected.shape, dtype=expected.dtype)
        else:
            missing.append(name)
    others = [name for name in imported.tensors if name not in own]
    resized = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in model.items()
        if tensor.shape != own[name].shape
    ]
    kinds = {"missing": missing, "not of this network": others, "of another shape": resized}
    if wrong := [f"{listed(names)}: {kind}" for kind, names in kinds.items() if names]:
        network = imported.params["model_params"]["model"]
        raise DataError(f"{path}: does not fit {network} as the framework builds it: {'; '.join(wrong)}")
    return model
