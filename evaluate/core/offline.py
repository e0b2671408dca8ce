"""Evaluating a network that lies on disk."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from config.eval_params import EvalParams
from config.load import params_from_dict
from config.params import Params
from evaluate.core.plugins import Evaluation, plugin_options
from models.network import Embedder, build_network
from utils.checkpoint import MODEL_BEST, is_finished, load_checkpoint
from utils.device import choose_device, describe_device
from utils.errors import DataError
from utils.files import write_json
from utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)


def find_model(path: Path) -> Path:
    """The checkpoint that `model_path` means: a file, that of a run's folder, or that of the newest finished run.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return path
    if (path / MODEL_BEST).is_file():
        return path / MODEL_BEST
    if not path.is_dir():
        raise DataError(f"model_path: {path}: no such file or folder; train a model first, or name a .pth file")
    finished = [model for model in path.rglob(MODEL_BEST) if is_finished(model.parent)]
    if not finished:
        raise DataError(f"model_path: {path}: no finished run in this folder (no {MODEL_BEST}); train a model first")
    return max(finished, key=lambda model: (model.stat().st_mtime_ns, model))


def load_trained(options: EvalParams) -> Params:
    """The params of the evaluation, carrying the trained network on its device.

    Raises:
        DataError: there is no checkpoint, or its weights do not fit its params.
        ParamsError: the params in it, or their combination with `options`, are not valid.
    """
    path = find_model(Path(options.model_path).expanduser())
    checkpoint = load_checkpoint(path)
    trained, _ = params_from_dict(checkpoint.params, str(path), plugin_options)
    params = options.as_trained(trained)
    device = choose_device(params.parallels)
    logger.info("model %s; %s", path, describe_device(device))
    if device.type == "cpu" and params.keep_freed_memory:
        keep_freed_memory()
    network = build_network(params.model_params, len(checkpoint.labels))
    try:
        network.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise DataError(f"{path}: the weights do not fit the params beside them ({error})") from error
    network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return params.with_net(Embedder(network).eval())


def write_result(path: Path, params: Params, evaluation: Evaluation, seconds: float) -> None:
    """The evaluation as one JSON object: metrics as fractions, counts, and what was measured how."""
    result: dict[str, Any] = {
        "batches_dir": params.batches_dir,
        "evaluation_params": params.evaluation_params.model_dump(mode="json"),
        "score": evaluation.score_name,
        "metrics": evaluation.metrics,
        "counts": evaluation.counts,
        "seconds": round(seconds, 3),
    }
    write_json(path, result)


def write_pictures(folder: Path, pictures: dict[str, np.ndarray]) -> None:
    """Each picture (H, W, 3) uint8 as folder/NAME.png."""
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
