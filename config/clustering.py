"""The section `clustering_params`: training without labels, on clusters of the network's own embeddings."""

from typing import Literal

from pydantic import Field

from utils.options import Options


class ClusteringParams(Options):
    """Training without labels: clusters of the training images, formed anew before each epoch, replace identities."""

    method: Literal["cluster_contrast"] | None = None
    """"cluster_contrast" (Dai et al. 2021): a memory of centroids; null = train on the identities of the data set."""
    iterations: int = Field(default=200, ge=1)
    """Steps of an epoch."""
    distance: Literal["jaccard", "cosine"] = "jaccard"
    """Distance of images: Jaccard of their k-reciprocal neighbours (Zhong et al. 2017), or cosine of embeddings."""
    camera_normalisation: bool = False
    """Standardise the embeddings of each camera before they are compared (Song et al. 2025)."""
    k1: int = Field(default=30, ge=1)
    """For "jaccard": nearest images, the image itself among them, in which reciprocal neighbours are sought."""
    k2: int = Field(default=6, ge=1)
    """For "jaccard": nearest images, the image itself among them, whose encodings are averaged; 1 = no averaging."""
    probes: int = Field(default=0, ge=0)
    """For "jaccard": cells, of about sqrt(N), in which the nearest of N images are looked for; 0 = exactly, in all."""
    eps: float = Field(default=0.6, gt=0.0, lt=1.0)
    """DBSCAN: largest distance of two neighbours."""
    min_samples: int = Field(default=4, ge=2)
    """DBSCAN: neighbours of a core image, itself among them; smaller clusters are dropped as outliers."""
    weight: float = Field(default=1.0, ge=0.0)
    """Weight of ClusterNCE or CAP, the loss that compares embeddings with the memory; 0 = no memory."""
    proxies: Literal["cluster", "camera"] = "cluster"
    """Centroids in the memory: one of each cluster, or one of each camera in a cluster (CAP, Wang et al. 2021)."""
    temperature: float = Field(default=0.05, gt=0.0)
    """Temperature of this loss, which divides the cosines."""
    momentum: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of a centroid that stays when it follows an image; 1 = centroids do not move within an epoch."""
    memory_update: Literal["each", "hard"] = "each"
    """Images of a batch that their centroid follows: each in turn, or the one least like it."""
