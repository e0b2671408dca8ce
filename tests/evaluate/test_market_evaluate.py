"""The Market-1501 plug-in from a folder of images to metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.planted import SIZES, planted_features
from config.params import Params
from data.features import Features, TestFeatures
from data.samples import Sample
from evaluate import market_evaluate
from evaluate.core.context import EvalContext
from evaluate.core.pictures import RIGHT, WRONG
from evaluate.core.plugins import evaluate
from evaluate.core.retrieval import k_reciprocal
from evaluate.market_evaluate import Options, measure
from tests.evaluate.conftest import BLUE, DARK_GREEN, DARK_RED, GREEN, RED
from tests.processes import run_in_processes
from utils.errors import DataError, ParamsError, UserError


def run(folder, **options):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    plugin = Options.model_validate({"type": "market_evaluate", "metric": "euclidean"} | options)
    keys = {"batches_dir": str(folder), "img_h": 32, "img_w": 16, "evaluation_params": plugin}
    return evaluate(EvalContext(Params.model_validate(keys), net))


def is_colour(picture, colour):
    """(H, W) of a picture (H, W, 3)."""
    return (picture == np.array(colour, dtype=np.uint8)).all(axis=2)


def test_metrics_of_a_folder_small_enough_to_follow(market_folder):
    # Person 2's query meets, by distance: own camera (ignored), distractor (wrong), true match. Person 1's: true match.
    folder = market_folder(
        {"0001_c1_0.png": RED, "0002_c1_0.png": GREEN},
        {
            "0001_c2_0.png": DARK_RED,
            "0002_c1_0.png": GREEN,
            "0000_c3_0.png": (0, 240, 0),
            "0002_c2_0.png": DARK_GREEN,
            "-1_c2_0.png": GREEN,
        },
    )
    evaluation = run(folder, ranks=(1, 2))
    assert (evaluation.score, evaluation.score_name) == (pytest.approx(0.75), "mAP")
    assert evaluation.metrics == {
        "rank1": 0.5,
        "rank2": 1.0,
        "mAP": pytest.approx((1 + 1 / 2) / 2),
        "mAP_trapezoid": pytest.approx((1 + (0 + 1 / 2) / 2) / 2),
        "mINP": pytest.approx((1 + 1 / 2) / 2),
    }
    assert evaluation.counts == {"num_query": 2, "num_query_without_match": 0, "num_gallery": 5}
    # The worst query comes first: its distractor's frame begins where its true match's does.
    wrong, right = (is_colour(evaluation.pictures["rank_list"], colour).any(axis=1) for colour in (WRONG, RIGHT))
    assert wrong.argmax() == right.argmax()


def test_the_picture_can_be_turned_off(market_folder):
    folder = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    assert run(folder, rank_list_queries=0).pictures == {}
    assert run(folder, metric="cosine").score == 1.0


def test_ignored_images_are_not_in_the_picture(market_folder):
    folder = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED, "0001_c1_0.png": BLUE, "-1_c1_0.png": BLUE})
    assert not is_colour(run(folder).pictures["rank_list"], BLUE).any()


def test_queries_without_a_match_are_counted_and_left_out(market_folder, caplog):
    folder = market_folder(
        {"0001_c1_0.png": BLUE, "0002_c1_0.png": GREEN, "0007_c1_0.png": RED},
        {"0002_c1_0.png": GREEN, "0007_c2_0.png": RED},
    )
    evaluation = run(folder)
    assert evaluation.metrics["rank1"] == 1.0
    assert evaluation.counts["num_query_without_match"] == 2
    assert not is_colour(evaluation.pictures["rank_list"], BLUE).any()
    assert f"{folder}: 2 of 3 query images have no true match in the gallery and are left out" in caplog.text
    assert caplog.messages[0].endswith("the gallery lacks pid 1")


def test_of_many_pids_that_the_gallery_lacks_a_few_are_named(market_folder, caplog):
    folder = market_folder(
        {f"{pid:04}_c1_0.png": RED for pid in range(1, 16)}, {"0001_c2_0.png": RED, "0000_c2_0.png": BLUE}
    )
    assert run(folder).counts == {"num_query": 15, "num_query_without_match": 14, "num_gallery": 2}
    assert caplog.messages[0].endswith("the gallery lacks pid 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 4 more")


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ([], ["0001_c1_0.png"], "no query images"),
        (["0001_c1_0.png"], [], "no gallery images"),
        (["0001_c1_0.png"], ["0002_c2_0.png", "0000_c2_0.png"], "shows none of the persons of the 1 query images"),
        (["0001_c1_0.png"], ["0001_c1_1.png", "0002_c2_0.png"], "from the query's own camera only"),
        (["0000_c1_0.png", "-1_c1_0.png"], ["0000_c2_0.png", "-1_c2_0.png"], "shows none of the persons"),
    ],
)
def test_a_folder_that_cannot_be_evaluated_is_named(market_folder, query, gallery, message):
    folder = market_folder(dict.fromkeys(query, RED), dict.fromkeys(gallery, RED))
    with pytest.raises(DataError, match=f"{folder}: .*{message}"):
        run(folder)


def features(query_pids, query_camids, gallery_pids, gallery_camids, gallery):
    """Embeddings on a line: all queries at 1, the gallery where it is said."""
    return TestFeatures(
        Features(torch.ones(len(query_pids), 1), torch.tensor(query_pids), torch.tensor(query_camids), []),
        Features(torch.tensor(gallery).float()[:, None], torch.tensor(gallery_pids), torch.tensor(gallery_camids), []),
    )


THREE = features([7], [1], [7, 8, 7], [1, 2, 2], [1, 2, 3])


def run_on(given, **options):
    plugin = Options.model_validate({"type": "market_evaluate", "metric": "euclidean"} | options)
    params = Params().model_copy(update={"evaluation_params": plugin})
    return evaluate(EvalContext(params, features=given))


def test_features_are_evaluated_without_network_or_images():
    evaluation = run_on(THREE)
    assert evaluation.metrics["mAP"] == pytest.approx(1 / 2)
    assert evaluation.pictures == {}
    assert evaluation.features is THREE
    # Without cameras every image of the person counts.
    assert run_on(THREE, protocol="camera_less").metrics["mAP"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_random_gallery_holds_one_image_of_each_person():
    # Persons 1 and 2 are worlds apart, so that whatever is drawn is found; 3 has no second image.
    labels = torch.tensor([1, 1, 1, 2, 2, 3, 0, -1])
    line = torch.tensor([[0.0], [1.0], [2.0], [100.0], [101.0], [500.0], [0.5], [0.6]])
    empty = Features(line[:0], labels[:0], labels[:0], [])
    given = TestFeatures(empty, Features(line, labels, torch.zeros(8, dtype=torch.int64), []))
    evaluation = run_on(given, protocol="random_gallery", gallery_repeats=3)
    assert evaluation.counts == {"num_query": 3, "num_query_without_match": 0, "num_gallery": 3}
    assert evaluation.metrics["rank1"] == 1.0
    assert evaluation.metrics["rank1_std"] == 0.0
    other = TestFeatures(empty, Features(line % 100, labels, torch.zeros(8, dtype=torch.int64), []))
    first, second = (run_on(other, protocol="random_gallery", gallery_seed=seed).metrics for seed in (0, 0))
    assert first == second
    assert first["rank1_std"] > 0


def test_verification_is_measured_on_request():
    given = features([7], [1], [7, 8, 9, 7], [2, 2, 2, 1], [2, 3, 4, 9])
    metrics = run_on(given, verification=True).metrics
    assert (metrics["auc"], metrics["eer"], metrics["tar_at_far_0.1"]) == (1.0, 0.0, 1.0)
    assert "auc" not in run_on(given).metrics


def test_each_step_of_the_post_processing_changes_the_metrics_as_it_should():
    rng = torch.Generator().manual_seed(0)
    pids, camids = torch.arange(1, 41).repeat_interleave(6), torch.arange(6).repeat(40) % 3 + 1
    centres = torch.randn(41, 16, generator=rng)
    line = centres[pids] + 0.9 * torch.randn(240, 16, generator=rng)
    is_query = torch.arange(240) % 6 < 2
    given = TestFeatures(
        *(Features(line[rows], pids[rows], camids[rows], [], (4, 12)) for rows in (is_query, ~is_query))
    )
    plain = run_on(given, metric="cosine").metrics["mAP"]
    for options in (
        {"query_expansion": 2},
        {"re_ranking": "k_reciprocal", "k_reciprocal": {"k1": 6, "k2": 2}},
        {"re_ranking": "spectral", "spectral": {"top": 20, "temperature": 0.3}},
    ):
        assert run_on(given, metric="cosine", **options).metrics["mAP"] > plain + 0.01, options
    # Unit length of the whole is what the cosine does anyway, and orders like the Euclidean distance.
    for options in ({"metric": "cosine", "normalisation": "whole"}, {"normalisation": "whole"}):
        assert run_on(given, **options).metrics["mAP"] == pytest.approx(plain, abs=1e-6)
    assert run_on(given, metric="cosine", normalisation="branch").metrics["mAP"] != pytest.approx(plain, abs=1e-4)
    offsets = 2 * torch.randn(4, 16, generator=rng)
    biased = TestFeatures(*(part._replace(features=part.features + offsets[part.camids]) for part in given))
    assert run_on(biased, metric="cosine").metrics["mAP"] < plain - 0.1
    found = run_on(biased, metric="cosine", camera_normalisation=True).metrics["mAP"]
    assert found == pytest.approx(run_on(given, metric="cosine", camera_normalisation=True).metrics["mAP"], abs=1e-6)
    assert found > plain - 0.02


@pytest.mark.parametrize("protocol", ["cross_camera", "random_gallery"])
def test_unknown_cameras_are_not_standardised(protocol):
    given = features([7, 8], [1, 0], [7, 8, 7], [0, 2, 2], [1, 2, 3])
    run_on(given, protocol=protocol)
    with pytest.raises(DataError, match=r"camera_normalisation: 2 test images are of camera 0, .* set it to false$"):
        run_on(given, protocol=protocol, camera_normalisation=True)


def test_multi_query_averages_what_one_camera_saw():
    query, gallery = torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([[1.0], [1.0], [2.0], [9.0]])
    given = TestFeatures(
        Features(query, torch.tensor([7, 7, 7, 8]), torch.tensor([1, 1, 2, 1]), []),
        Features(gallery, torch.tensor([7, 7, 8, 8]), torch.tensor([3, 3, 3, 3]), []),
    )
    assert run_on(given).counts["num_query"] == 4
    evaluation = run_on(given, multi_query=True)
    assert evaluation.counts["num_query"] == 3
    # Person 7 from camera 1 is now at 1, from camera 2 at 5: there the wrong image at 2 comes first.
    assert evaluation.metrics["mAP"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + 1) / 3)


def test_an_embedding_without_direction_is_told():
    given = features([7], [1], [7, 8], [2, 2], [0, 1])
    with pytest.raises(DataError, match="gallery: 1 of 2 embeddings have length zero"):
        run_on(given, metric="cosine")
    with pytest.raises(DataError, match="branch_dims"):
        run_on(given, normalisation="branch")


def test_the_mirror_image_is_added(market_folder):
    folder = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    plain, flipped = (run(folder, flip=flip).features for flip in (False, True))
    assert plain is not None
    assert flipped is not None
    torch.testing.assert_close(flipped.query.features, 2 * plain.query.features)


def test_features_whose_images_are_gone_are_measured_all_the_same(caplog):
    query, gallery = THREE
    named = [[Sample(Path(f"/nowhere/{row}.png"), 7, 1) for row in range(number)] for number in (1, 3)]
    given = TestFeatures(query._replace(samples=named[0]), gallery._replace(samples=named[1]))
    evaluation = run_on(given)
    assert evaluation.metrics["mAP"] == pytest.approx(1 / 2)
    assert evaluation.pictures == {}
    assert "no picture of rank lists: /nowhere/" in caplog.text
    assert run_on(given._replace(gallery=gallery)).pictures == {}


def test_more_averaged_neighbours_than_there_are_is_refused():
    with pytest.raises(ParamsError, match=r"k_reciprocal\.k2: 6 is more than k1 \+ 1 = 3 neighbours"):
        run_on(THREE, re_ranking="k_reciprocal", k_reciprocal={"k1": 2})


def test_measuring_needs_a_data_set_or_features():
    params = Params(evaluation_params=Options(type="market_evaluate"))
    with pytest.raises(ValueError, match="expected a data set, or a config with features"):
        measure(EvalContext(params, nn.Identity()), None)


def run_planted(**options):
    return run_on(planted_features(SIZES["small"]._replace(dim=16), seed=0), verification=True, **options)


def re_ranked():
    """Metrics and counts of a re-ranking, and how often this process has taken its sparse part."""
    taken, encode = [], k_reciprocal.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_reciprocal, "encode", lambda *arguments: taken.append(1) or encode(*arguments))
        evaluation = run_planted(re_ranking="k_reciprocal")
    return evaluation.metrics, evaluation.counts, len(taken)


def test_one_of_several_processes_ranks_and_all_have_its_figures():
    [(metrics, counts, taken)] = run_in_processes(re_ranked, 1)
    assert taken == 1
    assert run_in_processes(re_ranked, 2) == [(metrics, counts, 1), (metrics, counts, 0)]


@pytest.mark.parametrize("where", ["retrieve", "retrieval_roc"])
def test_a_ranking_too_large_for_the_device_is_told_with_what_to_lower(where, monkeypatch):
    def rank(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(market_evaluate, where, rank)
    with pytest.raises(UserError) as told:
        run_planted()
    first, advice = str(told.value).splitlines()
    assert first.startswith("out of memory, ranking 800 gallery images for 200 queries: CUDA out of memory.")
    assert advice == "lower evaluation_params.memory_mb"
