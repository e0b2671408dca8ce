"""The report of a verification of pairs."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from data.features import Features
from evaluate.core.report.blocks import Block, Facts, Figure, Figures, ImageGroup, ImageGroups, Note, Report, Section
from evaluate.core.report.images import Crops, number
from evaluate.core.report.pairs import pair_section
from evaluate.core.verification.pairs import Pairs
from evaluate.core.verification.roc import pair_statistics

NUM_BINS = 60
MISTAKES_OF_A_KIND = 12


def verification_report(
    found: Features,
    pairs: Pairs,
    distances: Tensor,
    metrics: Mapping[str, float],
    title: str,
    facts: Sequence[tuple[str, str]],
) -> Report:
    """All there is to see of a verification.

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
        (name, number(value) if name.startswith("threshold") else f"{value:.2%}")
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
