"""Heads: feature map in, embeddings and class scores out. Parts are a tensor dimension, never a list."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.classifiers import CosineClassifier, LinearClassifier
from models.erasing import BandErasing
from models.outputs import BranchOutput, FeatureKind, SpectralOutput
from models.pooling import Pooling, StripePooling
from models.spectral import spectral_transform

Neck = Literal["none", "bn", "bnneck"]


class BranchHead(nn.Module):
    """Pools a feature map into P horizontal stripes, each with its own embedding and classifier.

    With one part it is a global branch. Two batched matrix products serve all parts.

    Args:
        in_channels: C of the feature map.
        num_parts: P; the map's height must be a multiple of it.
        dim: D, size of each part's embedding; 0 = the pooled vector itself, D = C.
        classifier: (P, B, D) -> scores.
        pooling: of a stripe to one vector, or a module (B, C, h, w) -> (P, B, in_channels).
        neck: between features and embeddings: nothing, batch normalisation, or batch normalisation without a
            learnable bias.
        relu: ReLU after it.
        classifier_of: input of the classifier.
        mask: multiply the feature by a sigmoid gate computed from the pooled vector.
        erasing: share of each stripe's rows set to zero in training.
        map_dropout: dropout rate on the feature map.
        feature_dropout: dropout rate of the input of the classifier.
        retrieval_scale: factor of this branch in what retrieval compares.

    Source: Sun et al. 2018, arXiv 1711.09349 (parts); Luo et al. 2019, arXiv 1903.07071, section 3.6 (BNNeck).
    """

    def __init__(
        self,
        in_channels: int,
        num_parts: int,
        dim: int,
        classifier: LinearClassifier | CosineClassifier,
        pooling: Pooling | nn.Module = "avg",
        neck: Neck = "bn",
        relu: bool = False,
        classifier_of: FeatureKind = "embeddings",
        mask: bool = False,
        erasing: float = 0.0,
        map_dropout: float = 0.0,
        feature_dropout: float = 0.0,
        retrieval_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.retrieval_scale = retrieval_scale
        self.num_parts = num_parts
        self.dim = dim or in_channels
        self.map_dropout = nn.Dropout(map_dropout)
        self.erasing = BandErasing(num_parts, erasing)
        self.pooling = StripePooling(num_parts, pooling) if isinstance(pooling, str) else pooling
        self.reduction = nn.Parameter(torch.empty(num_parts, in_channels, dim)) if dim else None
        self.mask = FeatureMask(num_parts, in_channels, self.dim) if mask else None
        # One BN over P * D channels equals one per part, as channels are independent.
        self.bn = nn.BatchNorm1d(num_parts * self.dim) if neck != "none" else None
        if self.bn is not None and neck == "bnneck":
            self.bn.bias.requires_grad_(False)
        self.relu = relu
        self.classifier_of: FeatureKind = classifier_of
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.classifier = classifier
        if self.reduction is not None:
            # Kaiming fan-out initialisation of each part, as for the backbone's convolutions.
            nn.init.normal_(self.reduction, std=(2.0 / dim) ** 0.5)

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> features and embeddings, (P, B, D) each."""
        pooled = self.pooling(self.erasing(self.map_dropout(feature_map)))
        features = pooled if self.reduction is None else pooled @ self.reduction
        if self.mask is not None:
            features = features * self.mask(pooled)
        embeddings = features if self.bn is None else self._normalise(self.bn, features)
        return features, embeddings.relu() if self.relu else embeddings

    def forward(self, feature_map: Tensor, spectral: float = 0.0) -> BranchOutput:
        """(B, C, h, w) -> features, embeddings and scores of every part.

        Args:
            feature_map: of the images of one batch.
            spectral: temperature of the spectral transform of the batch; 0 = none.
        """
        features, embeddings = self.embed(feature_map)
        classified = embeddings if self.classifier_of == "embeddings" else features
        scores = self.classifier(self.feature_dropout(classified))
        if not spectral:
            return BranchOutput(features, embeddings, scores, retrieval_scale=self.retrieval_scale)
        transformed, share = spectral_transform(classified, spectral)
        spectral_scores = self.classifier(self.feature_dropout(transformed))
        spectral_output = SpectralOutput(spectral_scores, share)
        return BranchOutput(features, embeddings, scores, spectral_output, retrieval_scale=self.retrieval_scale)

    def _normalise(self, bn: nn.BatchNorm1d, features: Tensor) -> Tensor:
        normalised = bn(features.transpose(0, 1).flatten(1))
        return normalised.unflatten(1, (self.num_parts, self.dim)).transpose(0, 1)


class FeatureMask(nn.Module):
    """P sigmoid gates side by side, each a linear function of the pooled vector: (P, B, C) -> (P, B, D) in 0..1."""

    def __init__(self, num_parts: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, in_channels, dim))
        self.bias = nn.Parameter(torch.zeros(num_parts, 1, dim))
        # Small, so that all gates start at about 0.5.
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, pooled: Tensor) -> Tensor:
        """(P, B, C) -> (P, B, D)."""
        return torch.sigmoid(pooled @ self.weight + self.bias)
