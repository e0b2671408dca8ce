"""Genuine and impostor pairs: how far apart their distances lie, and what a threshold between them achieves."""

from evaluate.core.report.blocks import Cell, Facts, Note, Section, Table
from evaluate.core.report.charts import distance_chart, roc_chart
from evaluate.core.report.images import number
from evaluate.core.retrieval.retrieve import Retrieval
from evaluate.core.verification.roc import FALSE_ACCEPT_RATES, PairStatistics, Roc, retrieval_roc
from utils.errors import DataError

NUM_BINS = 80
TITLE = "Distances"


def retrieval_pair_section(retrieval: Retrieval, memory: int) -> Section:
    """Distances and ROC of all pairs of a query and a gallery image that is not ignored."""
    text = (
        "All pairs of a query and a gallery image that is not ignored: genuine ones show one person, impostors two. A "
        "pair is accepted if its distance is at most a threshold."
    )
    try:
        statistics = retrieval_roc(retrieval.distances, retrieval.truth, memory, NUM_BINS)
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
