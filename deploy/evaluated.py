"""An exported model in the evaluator: every plug-in measures it as it measures a checkpoint."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config.eval_params import EvalParams
from config.load import params_from_dict
from data.augmentation.normalisation import Normalisation, denormalise
from deploy.networks import ExportedNetwork, open_exported
from evaluate.core.offline import Subject, subject_of
from evaluate.core.plugins import plugin_options
from utils.errors import ParamsError

logger = logging.getLogger(__name__)


class ExportedEmbedder(nn.Module):
    """Normalised images (B, 3, H, W) -> embeddings (B, D), not of unit length, by an exported model.

    Undoing the normalisation gives exactly the pixel values that the model takes. The embeddings get back their
    lengths, on which Euclidean distances and sums of mirror images depend.

    Args:
        network: the exported model.
        normalisation: of the input images.
    """

    def __init__(self, network: ExportedNetwork, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.normalisation: Normalisation = normalisation
        self.branch_dims = network.branch_dims
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> embeddings (B, D) float32."""
        pixels = denormalise(images, self.normalisation).permute(0, 2, 3, 1).cpu().numpy()
        embeddings, lengths = self.network.embed(np.ascontiguousarray(pixels))
        return torch.from_numpy(embeddings * lengths).to(images.device)


def load_exported(path: Path, options: EvalParams) -> Subject:
    """A model of export_onnx, to be evaluated like the checkpoint it was made from.

    Raises:
        DataError: the file cannot be run, or has no model card.
        ParamsError: the params in it, or their combination with `options`, are not valid.
    """
    if options.retrieval_of is not None:
        raise ParamsError(f"retrieval_of: {path} has one output; evaluate its checkpoint, or leave retrieval_of out")
    network = open_exported(path, parallels=options.parallels)
    trained, _ = params_from_dict(network.card.params, str(path), plugin_options)
    if network.resize[:2] != trained.eval_resize[:2]:
        raise ParamsError(f"{path} takes squares, as export_params.resize asked for; evaluate its checkpoint")
    logger.info("model %s; %s", path, network.runs_on)
    return subject_of(path, trained, ExportedEmbedder(network, trained.data_augmentation.normalisation), options)
