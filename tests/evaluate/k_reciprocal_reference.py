"""k-reciprocal encodings worked through image by image, with sets and dense matrices."""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import torch


def reference_distances(features, metric):
    """(N, N) float64: squared length of the difference, for cosine of that of the unit vectors."""
    features = features.double().numpy()
    if metric == "cosine":
        features = features / np.sqrt((features**2).sum(axis=1, keepdims=True))
    return np.array([((features - one) ** 2).sum(axis=1) for one in features])


def reference_weights(distance, order, k1, k2, besides):
    """(N, N) float64, step by step as the paper has it.

    Args:
        distance: (N, N), of which the weights are exp(-distance).
        order: (N, N), all images from the nearest to the farthest.
        k1, k2: of the paper.
        besides: neighbours counted besides k1 itself: 1 in re-ranking, 0 in clustering.
    """
    number, half = len(distance), round(k1 / 2)
    nearest = {k: [set(row[:k].tolist()) for row in order] for k in (k1 + besides, half + 1)}

    def reciprocal(i, k):
        return {j for j in nearest[k][i] if i in nearest[k][j]}

    weights = np.zeros((number, number))
    for i in range(number):
        plain = reciprocal(i, k1 + besides)
        whole = set(plain)
        for candidate in plain:
            theirs = reciprocal(candidate, half + 1)
            if theirs and Fraction(len(theirs & plain), len(theirs)) > Fraction(2, 3):
                whole |= theirs
        for j in whole:
            weights[i, j] = math.exp(-distance[i, j])
        weights[i] /= weights[i].sum() or 1
    return np.array([weights[row[:k2]].mean(axis=0) for row in order])


def reference_jaccard(weights, others):
    """(R, G) float64: Jaccard distances of encodings (R, N) and (G, N)."""
    jaccard = np.empty((len(weights), len(others)))
    for i, row in enumerate(weights):
        mine = row.nonzero()[0]  # elsewhere the smaller of the two weights is 0
        shared = np.minimum(row[mine], others[:, mine]).sum(axis=1)
        jaccard[i] = 1 - shared / (2 - shared)
    return jaccard


def random_features(number, seed, dim=8):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed))


def exact_vectors():
    """Whole numbers of whole length, and for cosine only such whose inner products at length 1 are halves."""
    corners = list(product([-1, 1], repeat=4))
    axes = [(1, 0, 0, 0), (0, -8, 0, 0), (0, 0, 1, 0), (0, 0, 0, 8), (-1, 0, 0, 0)]
    others = [vector for one in ((0, 1, 2, 2), (0, 1, -2, 2), (0, 0, 3, 4)) for vector in permutations(one)]
    return {"cosine": corners + axes, "euclidean": corners + axes + others}
