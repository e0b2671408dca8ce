"""The network whose features are used to compare generated and real images."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augmentation.normalisation import Normalisation, normalise, normalise_unit
from data.decoding import Resize
from evaluate.core.load_model import digest_of, find_network, load_trained_network
from models.network import Embedder
from utils.errors import DataError, UserError

KEY = "gan_params.measured_by"
INCEPTION = "inception"
INCEPTION_RESIZE = Resize(299, 299, "bilinear")
INCEPTION_DIM = 2048


class FeatureNetwork:
    """A frozen network in evaluation mode that turns images into features.

    Args:
        network: normalised images (B, 3, H, W) -> features (B, D).
        digest: identifies the network.
        name: for logs.
        dim: D.
        resize: size of its input; other images are resized.
        normalisation: of its images.
        device: where it computes.
    """

    def __init__(
        self,
        network: nn.Module,
        digest: str,
        name: str,
        dim: int,
        resize: Resize,
        normalisation: Normalisation,
        device: torch.device,
    ) -> None:
        network = network.requires_grad_(False).eval()
        self.network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.digest = digest
        self.name = name
        self.dim = dim
        self._resize = resize
        self._normalisation: Normalisation = normalisation
        self._device = device

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 of any size, on any device -> features (B, D) float32 on the CPU, of any length.

        Raises:
            ValueError: of another shape or type.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: uint8 (B, 3, H, W) expected, got {images.dtype} {tuple(images.shape)}")
        with torch.no_grad():
            pixels = images.to(self._device)
            if pixels.shape[2:] == self._resize[:2]:
                return self.network(normalise(pixels, self._normalisation)).float().cpu()
            size, mode = self._resize[:2], self._resize.interpolation
            # Bicubic interpolation overshoots at edges.
            pixels = F.interpolate(pixels / 255, size, mode=mode, antialias=True).clamp_(0, 1)
            pixels = normalise_unit(pixels, self._normalisation)
            return self.network(pixels).float().cpu()


def load_feature_network(named: str, device: torch.device) -> FeatureNetwork:
    """The network that `gan_params.measured_by` names.

    Args:
        named: "inception", or the path of a re-ID checkpoint or of the folder of its run.
        device: where it computes.

    Raises:
        DataError: there is no such checkpoint or it is unusable, or Inception's weights are neither cached nor can they
            be downloaded.
    """
    if named == INCEPTION:
        return FeatureNetwork(_inception(), INCEPTION, INCEPTION, INCEPTION_DIM, INCEPTION_RESIZE, "half", device)
    path = find_network(named, KEY, f'train a re-ID network first (python train.py), set "{INCEPTION}"')
    try:
        trained = load_trained_network(path)
    except UserError as error:
        raise DataError(f"{KEY}: {error}") from error
    params, network = trained.params, trained.network
    resize, normalisation = params.eval_resize, params.data_augmentation.normalisation
    names = digest_of(trained), str(path)
    return FeatureNetwork(Embedder(network), *names, network.embedding_dim, resize, normalisation, device)


def features_of(feature_network: FeatureNetwork, images: Tensor | Iterable[Tensor], batch_size: int = 64) -> np.ndarray:
    """Features of images: (N, D) float32.

    Args:
        images: (N, 3, H, W) uint8, or any number of such batches.
        batch_size: images per batch, at most.

    Raises:
        ValueError: no images, or as `FeatureNetwork` says.
    """
    batches = [images] if isinstance(images, Tensor) else images
    features = [feature_network(part) for batch in batches for part in batch.split(batch_size) if len(part)]
    if not features:
        raise ValueError("images: there are none")
    return torch.cat(features).numpy()


def _inception() -> nn.Module:
    """Inception v3 up to its pooled features, with torchvision's ImageNet weights; images (B, 3, 299, 299) "half".

    Published distances use other weights, converted from another training: figures of ours are comparable among
    themselves only.

    Source: Szegedy et al. 2016, arXiv 1512.00567.
    """
    # torchvision takes seconds to import and is needed for Inception only.
    from torchvision.models import inception_v3

    from models.torchvision_weights import fetch_imagenet

    state, _ = fetch_imagenet(
        "inception_v3",
        f"{KEY}: the weights of Inception",
        "train a re-ID network (python train.py) and name its run folder here",
    )
    # On the meta device: drawing initial weights would advance the random generators of training.
    with torch.device("meta"):
        network = inception_v3(weights=None, aux_logits=False, init_weights=False)
    # Without the second classifier, which is for training only.
    network.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}, assign=True
    )
    network.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return network
