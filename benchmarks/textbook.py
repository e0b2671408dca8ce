"""Retrieval metrics as a textbook computes them: the whole matrix of distances, sorted, and a loop over its rows.

It is what the evaluation is measured against, in time, in memory and in every metric.
"""

import numpy as np

from data.features import TestFeatures
from data.samples import DISTRACTOR_PID, JUNK_PID

RANKS = (1, 5, 10)


def textbook_metrics(features: TestFeatures) -> dict[str, float]:
    """rank1, rank5, rank10, mAP, mAP_trapezoid and mINP by "cosine", with Market-1501's rules; on the CPU."""
    query, gallery = (part.features.numpy() for part in features)
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    order = np.argsort(1.0 - query @ gallery.T, axis=1)
    gallery_pids, gallery_camids = features.gallery.pids.numpy(), features.gallery.camids.numpy()
    first, ap, ap_trapezoid, inp = [], [], [], []
    for row, (pid, camid) in enumerate(zip(features.query.pids.tolist(), features.query.camids.tolist(), strict=True)):
        pids, camids = gallery_pids[order[row]], gallery_camids[order[row]]
        is_seen = (pids != JUNK_PID) & ((pids != pid) | (camids != camid))
        hits = np.flatnonzero((pids == pid)[is_seen])
        if pid in (JUNK_PID, DISTRACTOR_PID) or not len(hits):
            continue
        found = np.arange(1, len(hits) + 1)
        precision = found / (hits + 1)
        precision_before = np.where(hits > 0, (found - 1) / np.maximum(hits, 1), 1.0)
        first.append(hits[0])
        ap.append(precision.mean())
        ap_trapezoid.append((precision_before + precision).mean() / 2)
        inp.append(len(hits) / (hits[-1] + 1))
    metrics = {f"rank{k}": float((np.array(first) < k).mean()) for k in RANKS}
    means = {"mAP": ap, "mAP_trapezoid": ap_trapezoid, "mINP": inp}
    return metrics | {name: float(np.mean(values)) for name, values in means.items()}
