"""An exported model as the evaluator's subject."""

import logging
from pathlib import Path

from config.eval_params import EvalParams
from config.load import params_from_dict
from deploy.embedder import ExportedEmbedder
from deploy.networks import OnnxNetwork
from evaluate.core.offline import Subject, subject_of
from evaluate.core.plugins import plugin_options

logger = logging.getLogger(__name__)


def load_exported(path: Path, options: EvalParams) -> Subject:
    """A model of export_onnx, to be measured as the checkpoint it came from would be.

    Raises:
        DataError: the file cannot be run, or says nothing of itself.
        ParamsError: the params in it, or their combination with `options`, are not valid.
    """
    network = OnnxNetwork(path)
    assert network.card is not None
    trained, _ = params_from_dict(network.card.params, str(path), plugin_options)
    logger.info("model %s; onnxruntime on %s", path, ", ".join(network.session.get_providers()))
    return subject_of(path, trained, ExportedEmbedder(network, trained.data_augmentation.normalisation), options)
