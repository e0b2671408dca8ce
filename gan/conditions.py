"""Whom a conditioned generator is to show: embeddings of real images by a re-ID network that stays as it is."""

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
        named: its checkpoint or run folder.

    Raises:
        DataError: there is none.
    """

    def __init__(self, named: str) -> None:
        path = find_network(named, KEY, "train a re-ID network first, python train.py, or say where it lies now")
        try:
            self._trained = load_trained_network(path)
        except UserError as error:
            raise DataError(f"{KEY}: {error}") from error
        self.path = path
        self.dim = self._trained.network.embedding_dim
        self.digest = digest_of(self._trained)

    def embed(self, samples: Sequence[Sample], device: torch.device) -> Tensor:
        """The embeddings (N, D) float32, on the device, of N images, each seen at the size of the network's training.

        Raises:
            DataError: an image cannot be read, or the network makes NaN of it.
        """
        # An image that was left out would give all that follow the embedding of another.
        params = self._trained.params.model_copy(update={"bad_images": "error"})
        config = EvalContext(params, Embedder(self._trained.network).to(device).eval())
        return extract(config, samples, "conditions").features.to(device)

    def sign(self, generator: Generator) -> None:
        """Note in a generator that it is conditioned on this network."""
        assert generator.condition_digest is not None
        generator.condition_digest.copy_(self._digest_bytes())

    def check_signed(self, generator: Generator, path: object) -> None:
        """See that a generator was trained on the embeddings of this network: others would show other persons.

        Raises:
            DataError: it was not.
        """
        signed = generator.condition_digest
        if signed is None or not torch.equal(signed.cpu(), self._digest_bytes()):
            raise DataError(
                f"{KEY}: {self.path}: not the network that {path} was trained with; name that one, or train the "
                "generator again"
            )

    def _digest_bytes(self) -> Tensor:
        return torch.tensor(list(bytes.fromhex(self.digest)), dtype=torch.uint8)
