"""The condition of a generator: which person to show, as an embedding by a frozen re-ID network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.samples import Sample
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.load_model import digest_of, find_network, load_trained_network
from models.generator import Generator
from models.network import Embedder
from utils.errors import DataError, UserError

KEY = "gan_params.condition"


class ConditionNetwork:
    """The re-ID network whose embeddings a generator is conditioned on.

    Args:
        path: of its checkpoint or run folder.

    Raises:
        DataError: there is none.
    """

    def __init__(self, path: str) -> None:
        self.path = find_network(path, KEY, "train a re-ID network first, python train.py, or say where it lies now")
        try:
            self._trained = load_trained_network(self.path)
        except UserError as error:
            raise DataError(f"{KEY}: {error}") from error
        self.dim = self._trained.network.embedding_dim
        self.digest = digest_of(self._trained)

    def embed(self, samples: Sequence[Sample], device: torch.device) -> Tensor:
        """Embeddings (N, D) float32 of N images, on the device, computed at the image size the network was trained at.

        Raises:
            DataError: an image cannot be read, or the network outputs NaN for it.
        """
        # A skipped image would shift the embeddings of all that follow.
        params = self._trained.params.model_copy(update={"bad_images": "error"})
        context = EvalContext(params, Embedder(self._trained.network).to(device).eval())
        return extract(context, samples, "conditions").features.to(device)

    def note_digest(self, generator: Generator) -> None:
        """Note in a generator that it is conditioned on this network."""
        assert generator.condition_digest is not None
        generator.condition_digest.copy_(self._digest_bytes())

    def check_digest(self, generator: Generator, name: str) -> None:
        """Check that a generator was trained with this network: embeddings of another would show other persons.

        Raises:
            DataError: it was not.
        """
        digest = generator.condition_digest
        if digest is None or not torch.equal(digest.cpu(), self._digest_bytes()):
            raise DataError(
                f"{KEY}: {self.path}: not the network that {name} was trained with; name that one, or train the "
                "generator again"
            )

    def _digest_bytes(self) -> Tensor:
        return torch.tensor(list(bytes.fromhex(self.digest)), dtype=torch.uint8)
