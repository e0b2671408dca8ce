"""Genuine and impostor pairs: their distances, what a threshold achieves, and the report of a verification."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from data.features import Features
from evaluate.core.report.blocks import (
    Block,
    Cell,
    Facts,
    Figure,
    Figures,
    ImageGroup,
    ImageGroups,
    Note,
    Report,
    Section,
    Table,
)
from evaluate.core.report.charts import distance_chart, roc_chart
from evaluate.core.report.images import Crops, number
from evaluate.core.retrieval.retrieve import Retrieval
from evaluate.core.table import is_fraction
from evaluate.core.verification.pairs import Pairs
from evaluate.core.verification.roc import FALSE_ACCEPT_RATES, PairStatistics, Roc, pair_statistics, retrieval_roc
from utils.errors import DataError

NUM_BINS = 60
RETRIEVAL_BINS = 80
TITLE = "Distances"
MISTAKES_OF_A_KIND = 12


def verification_report(
    found: Features,
    pairs: Pairs,
    distances: Tensor,
    metrics: Mapping[str, float],
    title: str,
    facts: Sequence[tuple[str, str]],
) -> Report:
    """The report of a verification.

    Args:
        found: the images of `pairs.samples`, embedded.
        pairs: the pairs.
        distances: (N,) float32, theirs.
        metrics: as the plug-in returns them.
        title: of the report, such as the data set's name.
        facts: names and values: what was measured and how.
    """
    genuine, impostor = distances[pairs.is_genuine], distances[~pairs.is_genuine]
    statistics = pair_statistics(genuine, impostor, NUM_BINS)
    text = (
        "Genuine pairs show one person, impostors two. A pair is accepted if its distance is at most a threshold. The "
        "curve and the histograms are of all pairs, without folds."
    )
    subtitle = f"Verification of {len(distances):,} pairs of {len(pairs.samples):,} images."
    sections = (
        Section("Summary", "", (_figures(metrics, pairs), Facts((*facts, *_others(metrics))))),
        pair_section(statistics, text),
        _mistakes(found, pairs, distances, metrics["threshold"]),
    )
    return Report(title, subtitle, sections)


def _figures(metrics: Mapping[str, float], pairs: Pairs) -> Figures:
    spread = f"± {metrics['accuracy_std']:.2%}, {pairs.num_folds} folds" if "accuracy_std" in metrics else "one fold"
    return Figures(
        (
            Figure("Accuracy", f"{metrics['accuracy']:.2%}", spread),
            Figure("EER", f"{metrics['eer']:.2%}", "equal error rate"),
            Figure("AUC", f"{metrics['auc']:.4f}", "area under the ROC curve"),
        )
    )


def _others(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The metrics that are no headlines."""
    headlines = ("accuracy", "accuracy_std", "eer", "auc")
    return [
        (name, f"{value:.2%}" if is_fraction(name) else number(value))
        for name, value in metrics.items()
        if name not in headlines
    ]


def _mistakes(found: Features, pairs: Pairs, distances: Tensor, threshold: float) -> Section:
    """The pairs farthest on the wrong side of the threshold."""
    crops = Crops(found)
    blocks: list[Block] = []
    for is_genuine, name in ((True, "Genuine pairs that are rejected"), (False, "Impostors that are accepted")):
        beyond = (distances.double() - threshold) * (1 if is_genuine else -1)
        # A distance of exactly the threshold is accepted.
        is_wrong = (beyond > 0 if is_genuine else beyond >= 0) & (pairs.is_genuine == is_genuine)
        wrong = is_wrong.nonzero().flatten()
        worst = wrong[beyond[wrong].argsort(descending=True, stable=True)][:MISTAKES_OF_A_KIND]
        blocks.append(Note(f"{name}: {len(wrong)} of {int((pairs.is_genuine == is_genuine).sum())}."))
        if len(worst):
            blocks.append(ImageGroups(tuple(_group(crops, pairs, distances, row) for row in worst.tolist())))
    text = f"Mistakes with the threshold {number(threshold)}, the clearest first."
    return Section("Mistakes", text, tuple(blocks))


def _group(crops: Crops, pairs: Pairs, distances: Tensor, row: int) -> ImageGroup:
    one, other = (crops.show(int(side[row]), "plain") for side in (pairs.first, pairs.second))
    return ImageGroup(f"distance {number(float(distances[row]))}", f"fold {int(pairs.folds[row]) + 1}", (one, other))


def retrieval_pair_section(retrieval: Retrieval, memory: int) -> Section:
    """Distances and ROC of all pairs of a query and a gallery image that is not ignored."""
    text = (
        "All pairs of a query and a gallery image that is not ignored: genuine ones show one person, impostors two. A "
        "pair is accepted if its distance is at most a threshold."
    )
    try:
        statistics = retrieval_roc(retrieval.distances, retrieval.truth, memory, RETRIEVAL_BINS)
    except DataError as error:  # no impostor
        return Section(TITLE, text, (Note(f"There is no curve: {error}."),))
    return pair_section(statistics, text)


def pair_section(statistics: PairStatistics, text: str) -> Section:
    """Histograms, ROC and operating points of any pairs; `text` says what the pairs are."""
    roc = statistics.roc
    facts = Facts(
        (
            ("Area under the ROC curve", f"{roc.auc:.4f}"),
            ("Equal error rate", f"{roc.eer:.2%}"),
            ("Genuine pairs", f"{roc.num_genuine:,}"),
            ("Impostor pairs", f"{roc.num_impostor:,}"),
        )
    )
    histogram = distance_chart(
        statistics.bin_edges.numpy(), statistics.genuine.numpy(), statistics.impostor.numpy(), roc.threshold_at(roc.eer)
    )
    return Section(TITLE, text, (facts, histogram, roc_chart(roc), _operating_points(roc)))


def _operating_points(roc: Roc) -> Table:
    """TAR and threshold at a few FARs; a dash where not one genuine pair can be accepted."""
    rows = []
    for far in FALSE_ACCEPT_RATES:
        threshold = roc.threshold_at(far)
        cells = (f"{far:g}", f"{roc.tar_at(far):.2%}", "–" if threshold is None else number(threshold))
        rows.append(tuple(map(Cell, cells)))
    header = ("False accepts, at most", "True accepts", "Threshold")
    return Table("Operating points", header, tuple(rows))
