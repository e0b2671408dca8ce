"""Heads: a feature map becomes embeddings and logits. Parts are a dimension of the tensors, never a list."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.branches import BranchOutput


class BranchHead(nn.Module):
    """Pools a feature map into P horizontal stripes and gives each its own embedding and classifier.

    With one part it is a global branch. All parts share two batched matrix products.

    Args:
        in_channels: C of the feature map.
        num_parts: P; the map's height must be a multiple of it.
        dim: D, size of each part's embedding.
        num_classes: N.
        pooling: how a stripe becomes one vector.
        bn: whether an embedding is batch-normalised; without, `features` and `embeddings` are the same.
        bn_bias: whether that normalisation has a trained offset.
        classifier_bias: whether the classifiers have a bias.
        map_dropout: dropout rate on the feature map.
        feature_dropout: dropout rate between embedding and classifier.

    Source: Sun et al. 2018, arXiv 1711.09349 (parts); Luo et al. 2019, arXiv 1903.07071 (metric loss before BN).
    """

    def __init__(
        self,
        in_channels: int,
        num_parts: int,
        dim: int,
        num_classes: int,
        pooling: Literal["avg", "max"] = "avg",
        bn: bool = True,
        bn_bias: bool = True,
        classifier_bias: bool = False,
        map_dropout: float = 0.0,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.dim = dim
        self.pooling: Literal["avg", "max"] = pooling
        self.map_dropout = nn.Dropout(map_dropout)
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.reduction = nn.Parameter(torch.empty(num_parts, in_channels, dim))
        # One normalisation over P * D channels is the same as one per part: its channels never mix.
        self.bn = nn.BatchNorm1d(num_parts * dim) if bn else None
        if self.bn is not None and not bn_bias:
            self.bn.bias.requires_grad_(False)
        self.classifier = PartClassifier(num_parts, dim, num_classes, classifier_bias)
        # Kaiming's fan-out initialisation, as the backbone's convolutions have it; the fan of each part is its own.
        nn.init.normal_(self.reduction, std=(2.0 / dim) ** 0.5)

    def embed(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> features and embeddings, (P, B, D) each."""
        stripes = pool_stripes(self.map_dropout(feature_map), self.num_parts, self.pooling)
        features = stripes @ self.reduction
        if self.bn is None:
            return features, features
        normalised = self.bn(features.transpose(0, 1).flatten(1))
        return features, normalised.unflatten(1, (self.num_parts, self.dim)).transpose(0, 1)

    def forward(self, feature_map: Tensor) -> BranchOutput:
        """(B, C, h, w) -> features, embeddings and logits of every part."""
        features, embeddings = self.embed(feature_map)
        return BranchOutput(features, embeddings, self.classifier(self.feature_dropout(embeddings)))


class PartClassifier(nn.Module):
    """P linear classifiers side by side: (P, B, D) -> logits (P, B, N)."""

    def __init__(self, num_parts: int, dim: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, dim, num_classes))
        self.bias = nn.Parameter(torch.zeros(num_parts, 1, num_classes)) if bias else None
        # Small, so that training starts from nearly equal probabilities for all identities.
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(P, B, D) -> (P, B, N)."""
        logits = embeddings @ self.weight
        return logits if self.bias is None else logits + self.bias


def pool_stripes(feature_map: Tensor, num_parts: int, pooling: Literal["avg", "max"]) -> Tensor:
    """Pool P equal horizontal stripes of a feature map, top to bottom: (B, C, h, w) -> (P, B, C).

    Raises:
        ValueError: P does not divide h.
    """
    if feature_map.shape[2] % num_parts:
        raise ValueError(f"{num_parts} parts do not divide a feature map of height {feature_map.shape[2]}")
    pool = F.adaptive_avg_pool2d if pooling == "avg" else F.adaptive_max_pool2d
    return pool(feature_map, (num_parts, 1)).squeeze(3).permute(2, 0, 1)
