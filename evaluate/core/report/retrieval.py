"""The report of a retrieval evaluation."""

from collections.abc import Mapping

import numpy as np

from evaluate.core.context import EvalContext, title_of
from evaluate.core.report.activation import activation_section
from evaluate.core.report.blocks import Block, Facts, Figure, Figures, Note, Report, Section
from evaluate.core.report.cameras import camera_section
from evaluate.core.report.charts import ap_chart, cmc_chart
from evaluate.core.report.embedding import embedding_section
from evaluate.core.report.images import Crops, why_no_pictures
from evaluate.core.report.ordering import chosen_queries, confused_pairs
from evaluate.core.report.ranklists import confusion_section, rank_list_section
from evaluate.core.report.verification import retrieval_pair_section
from evaluate.core.retrieval.random_gallery import DEVIATION
from evaluate.core.retrieval.ranking import MEMORY
from evaluate.core.retrieval.retrieve import Retrieval, RetrievalOptions
from evaluate.core.table import is_fraction

SEED = 0
MAX_RANK = 50
QUERIES_OF_A_KIND = 8
MAX_CONFUSIONS = 12
HEADLINES = {
    "rank1": ("Rank-1", "first image is right"),
    "rank5": ("Rank-5", "a right one among 5"),
    "rank10": ("Rank-10", "a right one among 10"),
    "mAP": ("mAP", "mean average precision"),
    "mINP": ("mINP", "how early the last match comes"),
}
COUNTS = {
    "num_query": "Queries",
    "num_query_without_match": "Queries without a true match, left out",
    "num_gallery": "Gallery images",
}
PROTOCOLS = {
    "cross_camera": "cross-camera (Market-1501): images from the query's own camera are ignored",
    "camera_less": "camera-less: every other image of the person counts",
    "random_gallery": "one random gallery image of each identity (VehicleID)",
}


def retrieval_report(
    retrieval: Retrieval,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
    config: EvalContext,
    memory: int = MEMORY,
) -> Report:
    """The report of a retrieval evaluation; the same arguments give the same report.

    Args:
        retrieval: the inputs and results of the ranking.
        metrics: fractions, as the plug-in returns them.
        counts: likewise.
        config: of the evaluation; its evaluation_params are RetrievalOptions.
        memory: bytes to use beside the embeddings.
    """
    options: RetrievalOptions = config.evaluation_params
    rng = np.random.default_rng(SEED)
    missing = why_no_pictures(retrieval.query, retrieval.gallery)
    query, gallery = Crops(retrieval.query), Crops(retrieval.gallery)
    chosen = chosen_queries(retrieval, QUERIES_OF_A_KIND, rng)
    confusions = confused_pairs(retrieval, MAX_CONFUSIONS, memory)
    sections = (
        _summary(retrieval, metrics, counts, config, options),
        _ranks(retrieval),
        retrieval_pair_section(retrieval, memory),
        camera_section(retrieval, memory),
        rank_list_section(retrieval, chosen, query, gallery, missing),
        confusion_section(retrieval, confusions, query, gallery, missing),
        activation_section(retrieval, chosen["worst"], config, missing),
        embedding_section(retrieval, options.metric, rng),
    )
    num_query, num_gallery = retrieval.truth.shape
    subtitle = f"{num_query:,} queries against {num_gallery:,} gallery images, {config.model}."
    return Report(title_of(config.batches_dir), subtitle, sections)


def _summary(
    retrieval: Retrieval,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
    config: EvalContext,
    options: RetrievalOptions,
) -> Section:
    """Headline numbers, and below them what was evaluated and how."""
    headlines = [
        Figure(name, f"{metrics[key]:.2%}", f"± {metrics[key + DEVIATION]:.2%}" if key + DEVIATION in metrics else note)
        for key, (name, note) in HEADLINES.items()
        if key in metrics
    ]
    shown = {*HEADLINES, *(key + DEVIATION for key in HEADLINES)}
    others = [(key, _as_text(key, value)) for key, value in metrics.items() if key not in shown]
    facts = [
        ("Data set", config.batches_dir),
        ("Protocol", PROTOCOLS[options.protocol]),
        ("Model", config.model),
        ("Embedding", f"{retrieval.gallery.features.shape[1]:,} dimensions"),
        ("Distance", options.metric),
        ("Post-processing", _post_processing(options)),
        *((COUNTS.get(key, key), f"{value:,}") for key, value in counts.items()),
        *others,
    ]
    blocks: list[Block] = [Figures(tuple(headlines)), Facts(tuple(facts))]
    if options.protocol == "random_gallery":
        means = f"These numbers are means over {options.gallery_repeats} random galleries, ± their standard deviation."
        blocks.append(Note(f"{means} All that follows shows the first of these galleries."))
    return Section("Summary", "", tuple(blocks))


def _ranks(retrieval: Retrieval) -> Section:
    """CMC and the spread of AP."""
    result = retrieval.result
    num_ranks = min(MAX_RANK, retrieval.truth.shape[1])
    cmc = np.array([result.cmc(k) for k in range(1, num_ranks + 1)])
    return Section("Ranks", "", (cmc_chart(cmc), ap_chart(result.ap.numpy())))


def _post_processing(options: RetrievalOptions) -> str:
    """The steps between network and ranking, in their order."""
    steps = []
    if options.flip:
        steps.append("mirror images added")
    if options.normalisation != "none":
        steps.append(f"unit length ({options.normalisation})")
    if options.camera_normalisation:
        steps.append("standardised by camera")
    if options.multi_query:
        steps.append("queries of a person and camera averaged")
    if options.query_expansion:
        steps.append(f"query expansion by {options.query_expansion}")
    if options.re_ranking == "k_reciprocal":
        settings = options.k_reciprocal
        steps.append(f"k-reciprocal re-ranking (k1 {settings.k1}, k2 {settings.k2}, λ {settings.lambda_value})")
    elif options.re_ranking == "spectral":
        steps.append(f"spectral re-ranking (top {options.spectral.top}, temperature {options.spectral.temperature})")
    return ", ".join(steps) or "none"


def _as_text(name: str, value: float) -> str:
    """A metric as the page shows it: a fraction in percent, a distance as it is."""
    return f"{value:.2%}" if is_fraction(name) else f"{value:.4g}"
