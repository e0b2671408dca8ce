"""The whole report of a retrieval evaluation, and what becomes of it where something is missing."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate.core.report.blocks import Facts, Figures, ImageGroups, Note, RankLists, Table
from evaluate.core.report.images import as_source
from evaluate.core.report.ordering import confused_pairs
from evaluate.core.report.page import render, write_report
from evaluate.core.report.retrieval import retrieval_report
from evaluate.core.retrieval.retrieve import retrieve
from models.network import Embedder, build_network
from models.options import ModelParams
from tests.evaluate.report.conftest import blocks_of

TITLES = [
    "Summary",
    "Ranks",
    "Distances",
    "Cameras",
    "Rank lists",
    "Confused persons",
    "Where the network looks",
    "Embeddings",
]


def make(retrieval, config, **metrics):
    result = retrieval.result
    metrics = {"rank1": result.cmc(1), "mAP": result.mean_ap, "mINP": result.mean_inp, **metrics}
    return retrieval_report(retrieval, metrics, {"num_query": result.num_query, "num_gallery": 72}, config, 2**26)


def with_options(config, options):
    return replace(config, params=config.params.model_copy(update={"evaluation_params": options}))


def section(report, title):
    return report.sections[TITLES.index(title)]


def test_a_report_has_all_sections_and_is_the_same_each_time(retrieval, config, tmp_path):
    torch.manual_seed(0)
    config = replace(config, network=Embedder(build_network(ModelParams(model="resnet_18", feature_dim=8), 3)).eval())
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, [make(retrieval, config)])
    report = make(retrieval, config)
    assert [part.title for part in report.sections] == TITLES
    assert report.title == "Market <1501>"
    assert not [block for part in report.sections for block in part.blocks if isinstance(block, Note)]
    page = (tmp_path / "a.html").read_bytes()
    assert page == (tmp_path / "b.html").read_bytes()
    assert b"Market &lt;1501&gt;" in page
    assert len(page) < 3_000_000


def test_the_summary_says_what_was_measured_and_how(retrieval, config):
    options = config.evaluation_params.model_copy(update={"flip": True, "re_ranking": "k_reciprocal"})
    config = with_options(config, options)
    figures, facts = section(make(retrieval, config, threshold_eer=0.41, mAP_std=0.0123, tar=0.5), "Summary").blocks
    assert isinstance(figures, Figures)
    assert isinstance(facts, Facts)
    assert [figure.name for figure in figures.items] == ["Rank-1", "mAP", "mINP"]
    assert figures.items[1].value == f"{retrieval.result.mean_ap:.2%}"
    assert figures.items[1].note == "± 1.23%"
    known = dict(facts.items)
    assert known["threshold_eer"] == "0.41"
    assert known["tar"] == "50.00%"
    assert known["Queries"] == "18"
    assert known["Data set"] == "/data/Market <1501>"
    assert known["Embedding"] == "12 dimensions"
    assert known["Post-processing"] == "mirror images added, k-reciprocal re-ranking (k1 20, k2 6, λ 0.3)"
    assert "mAP_std" not in known
    # Of random galleries it says which one is shown.
    options = config.evaluation_params.model_copy(update={"protocol": "random_gallery", "gallery_repeats": 7})
    note = section(make(retrieval, with_options(config, options)), "Summary").blocks[-1]
    assert isinstance(note, Note)
    assert "means over 7 random galleries" in note.text


def test_rank_lists_hold_ten_images_that_count_and_the_ignored_ones_between(retrieval, config):
    worst, best, random = blocks_of(section(make(retrieval, config), "Rank lists"), RankLists)
    lists = [each for block in (worst, best, random) for each in block.lists]
    assert len(lists) == 18  # 8 of each kind are more than there are
    for each in lists:
        assert each.query.verdict == "query"
        ranks = [image.above for image in each.retrieved if image.verdict != "ignored"]
        assert ranks == [str(rank) for rank in range(1, 11)]
        assert each.retrieved[-1].above == "10"
        for image in each.retrieved:
            same = f"{each.note[0]}, {each.note[1]}" in image.hint
            assert (image.verdict == "ignored") == (same or "junk" in image.hint)
            assert (image.verdict == "right") == (f"{each.note[0]}," in image.hint and not same)
    assert any(image.verdict == "ignored" for each in lists for image in each.retrieved)


def test_embeddings_without_images_are_reported_without_pictures(retrieval, config):
    nameless = retrieval._replace(
        query=retrieval.query._replace(samples=[]), gallery=retrieval.gallery._replace(samples=[])
    )
    report = make(nameless, config)
    for title, sentence in (
        ("Rank lists", "does not name its images"),
        ("Confused persons", "does not name its images"),
        ("Where the network looks", "come from a file"),
    ):
        note = section(report, title).blocks[0]
        assert isinstance(note, Note)
        assert sentence in note.text
    table = section(report, "Confused persons").blocks[1]
    assert isinstance(table, Table)
    pairs = confused_pairs(retrieval, 12, 2**26)
    assert pairs
    assert [row[0].text for row in table.rows] == [f"pid {pair.query_pid}" for pair in pairs]
    assert [row[2].text.split(" of ")[0] for row in table.rows] == [str(pair.times) for pair in pairs]
    page = render([report])
    assert "<img" not in page
    assert page.count("<svg") == 6


def test_image_files_that_are_gone_are_told_in_a_sentence(retrieval, config):
    gone = retrieval.gallery.samples[0].path
    gone.unlink()
    (note,) = blocks_of(section(make(retrieval, config), "Rank lists"), Note)
    assert str(gone) in note.text


def test_a_single_damaged_image_leaves_an_empty_frame(retrieval, config):
    for sample in retrieval.gallery.samples[1:9]:
        sample.path.write_bytes(b"no image")
    blocks = blocks_of(section(make(retrieval, config), "Rank lists"), RankLists)
    shown = [image for block in blocks for each in block.lists for image in each.retrieved]
    assert any(not image.source for image in shown)
    assert all((not image.source) == ("not an image that can be read" in image.hint) for image in shown)


@pytest.mark.parametrize("protocol", ["cross_camera", "camera_less"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_every_protocol_and_metric_can_be_reported(make_features, config, protocol, metric):
    options = config.evaluation_params.model_copy(update={"protocol": protocol, "metric": metric})
    retrieval = retrieve(make_features(), options, torch.device("cpu"))
    page = render([make(retrieval, with_options(config, options))])
    assert ("images from the query&#39;s own camera are ignored" in page) == (protocol == "cross_camera")
    assert (" of unit length" in page) == (metric == "cosine")


def test_a_gallery_without_impostors_has_no_curve_but_a_report(make_features, config):
    features = [part.at((part.pids == 1).nonzero().flatten()) for part in make_features()]
    retrieval = retrieve(type(make_features())(*features), config.evaluation_params, torch.device("cpu"))
    report = make(retrieval, config)
    (note,) = blocks_of(section(report, "Distances"), Note)
    assert "no impostor" in note.text
    (note,) = blocks_of(section(report, "Confused persons"), Note)
    assert "No query has a wrong image" in note.text
    assert render([report])


def test_confused_persons_are_shown_in_pairs(retrieval, config):
    (block,) = blocks_of(section(make(retrieval, config), "Confused persons"), ImageGroups)
    for group in block.groups:
        query, other = group.title.split(" taken for ")
        first, second = group.images
        assert (first.verdict, second.verdict) == ("query", "wrong")
        assert f"{query}, camera" in first.hint
        assert f"{other}, camera" in second.hint


def test_crops_are_small_jpegs_that_keep_their_proportions():
    pixels = np.random.default_rng(0).integers(0, 256, (512, 200, 3), dtype=np.uint8)
    source, width, height = as_source(pixels)
    assert (width, height) == (50, 128)
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")))) as image:
        assert image.format == "JPEG"
        assert image.size == (50, 128)
    assert as_source(pixels[:64, :32])[1:] == (32, 64)
    assert as_source(pixels[:10, :200].repeat(8, axis=1))[1:] == (256, 2)
