"""The embeddings as a map: their two principal components."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor
from torch.nn import functional as F

from data.samples import DISTRACTOR_PID, JUNK_PID
from evaluate.core.report.blocks import Chart, Note, Section
from evaluate.core.report.images import person
from evaluate.core.report.svg import DOT, FIRST, INK, MUTED, draw, hint, percent
from evaluate.core.retrieval.distances import Metric
from evaluate.core.retrieval.retrieve import Retrieval

MAX_POINTS = 3000
MAX_PERSONS = 20
# Okabe and Ito's colours that show on white and on black, and four between them; with two markers twenty persons.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc4c79", "#56b4e9", "#d55e00", "#8d6cc9", "#9a8a1f", "#8c5a3c", "#7f8a96",
)  # fmt: skip
MARKERS = ("o", "^")


class Projection(NamedTuple):
    """points: (N, 2) float64; explained: (min(N, D),) float64, the share of the variance along each component."""

    points: Tensor
    explained: Tensor


class Map(NamedTuple):
    """What is drawn of N images: their places (N, 2), pids (N,), whether each is a query (N,), and who has a colour."""

    projection: Projection
    pids: Tensor
    is_query: Tensor
    persons: list[int]


def principal_components(features: Tensor) -> Projection:
    """The two directions in which embeddings vary most.

    Args:
        features: (N, D).

    Returns:
        The embeddings along them. The largest coordinate of each component is positive, for a sign is no property of
        the data. Where there is no second component (N or D is 1) it is zero. And what all components explain, 0
        where all embeddings are the same.
    """
    centred = features.double() - features.double().mean(dim=0)
    # The smaller of the two matrices that have the same eigenvalues.
    is_tall = centred.shape[0] >= centred.shape[1]
    values, vectors = torch.linalg.eigh(centred.T @ centred if is_tall else centred @ centred.T)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)[:, :2]
    points = centred @ vectors if is_tall else vectors * values[:2].sqrt()
    points = F.pad(points, (0, 2 - points.shape[1]))
    farthest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    # Rounding leaves a little variance where there is none.
    is_real = values.sum() > 1e-20 * features.double().square().sum()
    return Projection(points * farthest.sign(), values / values.sum() if is_real else torch.zeros_like(values))


def embedding_map(retrieval: Retrieval, metric: Metric, rng: np.random.Generator) -> Map:
    """The images of some persons that are searched for, and as many others as there is room for, projected."""
    query, gallery = retrieval.query, retrieval.gallery
    searched = query.pids[retrieval.result.queries].unique().numpy()
    persons = np.sort(rng.choice(searched, min(MAX_PERSONS, len(searched)), replace=False))
    pids = torch.cat([query.pids, gallery.pids])
    is_query = torch.arange(len(pids)) < len(query.pids)
    chosen = np.flatnonzero(np.isin(pids.numpy(), persons))[:MAX_POINTS]
    others = np.flatnonzero(~np.isin(pids.numpy(), persons))
    others = rng.choice(others, min(MAX_POINTS - len(chosen), len(others)), replace=False)
    rows = torch.from_numpy(np.sort(np.concatenate([chosen, others])))
    is_gallery = rows >= len(query.pids)
    features = torch.cat([query.features[rows[~is_gallery]], gallery.features[rows[is_gallery] - len(query.pids)]])
    if metric == "cosine":
        features = F.normalize(features.double())
    return Map(principal_components(features), pids[rows], is_query[rows], persons.tolist())


def embedding_section(retrieval: Retrieval, metric: Metric, rng: np.random.Generator) -> Section:
    """The map as a section."""
    found = embedding_map(retrieval, metric, rng)
    text = (
        f"The two principal components of {len(found.pids):,} embeddings"
        f"{' of unit length' if metric == 'cosine' else ''}. {len(found.persons)} persons have a colour; their queries "
        "are large and outlined, their gallery images small. All other images, distractors and junk among them, are "
        "grey. What lies close together here may be far apart in the other dimensions."
    )
    explained = found.projection.explained.numpy()
    if not explained.any():
        return Section("Embeddings", "", (Note("All embeddings are the same, so there is nothing to draw."),))
    return Section("Embeddings", text, (_map_chart(found), _variance_chart(explained)))


def _map_chart(found: Map) -> Chart:
    points = found.projection.points.numpy()
    pids, is_query = found.pids.numpy(), found.is_query.numpy()

    def plot(axes: Axes) -> None:
        other = ~np.isin(pids, found.persons)
        axes.scatter(*points[other].T, s=4, color=MUTED, alpha=0.3, linewidths=0)
        for place, pid in enumerate(found.persons):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]
            for own, size, edge in ((~is_query, 9, 0.0), (is_query, 24, 0.8)):
                drawn = axes.scatter(
                    *points[own & (pids == pid)].T,
                    s=size,
                    marker=marker,
                    facecolors=colour,
                    edgecolors=INK if edge else "none",
                    linewidths=edge,
                    label=str(pid) if edge else None,
                )
                hint(drawn, person(pid))
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        first, second = F.pad(found.projection.explained, (0, 1)).tolist()[:2]
        axes.set_xlabel(f"first component, {first:.1%} of the variance")
        axes.set_ylabel(f"second component, {second:.1%}")
        axes.spines["left"].set_visible(True)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), title="pid", handletextpad=0.2, labelspacing=0.3, fontsize=8
        )

    assert {JUNK_PID, DISTRACTOR_PID}.isdisjoint(found.persons)
    return Chart(draw(plot, 5.0, 4.2), "Two principal components")


def _variance_chart(explained: np.ndarray) -> Chart:
    """How much of the variance the first k components hold together."""
    total = np.append(0.0, explained.cumsum())
    most = int(np.searchsorted(total, 0.9))

    def plot(axes: Axes) -> None:
        axes.plot(np.arange(len(total)), total, color=FIRST)
        (dot,) = axes.plot(most, total[most], "o", **DOT)
        hint(dot, f"{most} components hold {total[most]:.1%}")
        axes.set_xlim(0, len(explained))
        axes.set_ylim(0.0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
        axes.set_xlabel("principal components")

    caption = (
        f"{most} of {len(explained)} components hold 90% of the variance. A curve that is full early says that the "
        "rest of the dimensions is hardly used."
    )
    return Chart(draw(plot, 5.0, 4.2), "Variance in the first components", caption)
