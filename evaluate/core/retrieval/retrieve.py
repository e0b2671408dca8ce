"""Retrieval from embeddings to ranks: post-processing, distances and re-ranking, as the options say."""

from typing import Literal, NamedTuple

import torch
from pydantic import Field

from config.evaluation import EvaluationParams
from data.features import Features, TestFeatures
from evaluate.core.retrieval.distances import Distances, FeatureDistances, Metric
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances
from evaluate.core.retrieval.post_processing import averaged_queries, expanded_queries, normalised, without_camera_bias
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import RankResult, rank
from evaluate.core.retrieval.spectral import SpectralDistances
from utils.options import Options


class KReciprocal(Options):
    """Re-ranking by k-reciprocal neighbours (Zhong et al. 2017)."""

    k1: int = Field(default=20, ge=1)
    """Neighbours that must find each other."""
    k2: int = Field(default=6, ge=1)
    """Neighbours over which the encodings are averaged; 1 = not."""
    lambda_value: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of the original distance in the final one."""


class Spectral(Options):
    """Re-ranking of each query's nearest images by a spectral transform of them (Luo et al. 2018)."""

    top: int = Field(default=50, ge=2)
    """Nearest gallery images that are transformed and put in a new order."""
    temperature: float = Field(default=0.1, gt=0.0)
    """Temperature of the softmax over their cosines; the smaller, the more each keeps its own embedding."""


class RetrievalOptions(EvaluationParams):
    """How embeddings become ranks."""

    protocol: Literal["cross_camera", "camera_less", "random_gallery"] = "cross_camera"
    """Market-1501's rules; the same without cameras; or VehicleID's: one random gallery image of each identity."""
    gallery_repeats: int = Field(default=10, ge=1)
    """Random galleries over which "random_gallery" takes means."""
    gallery_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the random galleries."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    flip: bool = False
    """Embed each image and its mirror image, and add the two."""
    normalisation: Literal["none", "whole", "branch"] = "none"
    """Bring embeddings, or each branch's part of them, to unit length first; "cosine" does the whole anyway."""
    camera_normalisation: bool = False
    """Standardise the embeddings of each camera, of query and gallery together (Song et al. 2025)."""
    multi_query: bool = False
    """Average the embeddings of all queries of a person from one camera into one query."""
    query_expansion: int = Field(default=0, ge=0)
    """Average each query with so many of its nearest gallery images; 0 = off."""
    re_ranking: Literal["none", "k_reciprocal", "spectral"] = "none"
    """Re-ranking of the gallery after the first ranking."""
    k_reciprocal: KReciprocal = KReciprocal()
    """Settings of re_ranking "k_reciprocal"."""
    spectral: Spectral = Spectral()
    """Settings of re_ranking "spectral"."""
    memory_mb: int = Field(default=1024, ge=1)
    """Mebibytes that blocks of distances may take; k-reciprocal neighbours and genuine pairs come on top."""

    @property
    def memory(self) -> int:
        """`memory_mb` in bytes."""
        return self.memory_mb * 2**20


class Retrieval(NamedTuple):
    """Inputs and result of one ranking; `query` and `gallery` are post-processed."""

    query: Features
    gallery: Features
    distances: Distances
    truth: GroundTruth
    result: RankResult


def retrieve(features: TestFeatures, options: RetrievalOptions, device: torch.device) -> Retrieval:
    """Rank the gallery for every query.

    Args:
        features: embeddings as the network gives them.
        options: what is done with them.
        device: where.

    Raises:
        DataError: no query has a true match, or the embeddings do not allow what the options ask for.
    """
    query, gallery = (normalised(part, options.normalisation) for part in features)
    if options.camera_normalisation:
        query, gallery = without_camera_bias(query, gallery)
    if options.multi_query:
        query = averaged_queries(query)
    on_device = gallery.features.to(device)
    if options.query_expansion:
        length = options.query_expansion
        expanded = expanded_queries(query.features.to(device), on_device, options.metric, length, options.memory)
        query = query._replace(features=expanded.cpu())
    distances = _distances(query.features.to(device), on_device, options)
    labels = (query.pids, query.camids, gallery.pids, gallery.camids)
    truth = GroundTruth(*(part.to(device) for part in labels), cross_camera=options.protocol == "cross_camera")
    return Retrieval(query, gallery, distances, truth, rank(distances, truth, options.memory))


def _distances(query: torch.Tensor, gallery: torch.Tensor, options: RetrievalOptions) -> Distances:
    if options.re_ranking == "k_reciprocal":
        settings = options.k_reciprocal
        return KReciprocalDistances(
            query, gallery, options.metric, settings.k1, settings.k2, settings.lambda_value, options.memory
        )
    distances = FeatureDistances(query, gallery, options.metric)
    if options.re_ranking == "spectral":
        return SpectralDistances(
            distances, query, gallery, options.spectral.top, options.spectral.temperature, options.memory
        )
    return distances
