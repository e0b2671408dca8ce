"""The Market-1501 plug-in from a folder of images to metrics."""

import logging

import numpy as np
import pytest
from torch import nn

from config.params import Params
from evaluate.core.pictures import RIGHT, WRONG
from evaluate.core.plugins import evaluate
from evaluate.market_evaluate import Options
from utils.errors import DataError

RED, DARK_RED, GREEN, DARK_GREEN, BLUE = (250, 0, 0), (180, 0, 0), (0, 250, 0), (0, 170, 0), (0, 0, 250)


def run(folder, **options):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    plugin = Options.model_validate({"type": "market_evaluate", "metric": "euclidean"} | options)
    keys = {"batches_dir": str(folder), "img_h": 32, "img_w": 16, "evaluation_params": plugin}
    return evaluate(Params.model_validate(keys).with_net(net))


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
    picture = evaluation.pictures["rank_list"]
    is_frame = {
        colour: (picture == np.array(colour, dtype=np.uint8)).all(axis=2).any(axis=1) for colour in (RIGHT, WRONG)
    }
    # The worst query comes first: its distractor's frame begins where its true match's does.
    assert is_frame[WRONG].argmax() == is_frame[RIGHT].argmax()


def test_the_picture_can_be_turned_off(market_folder):
    folder = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    assert run(folder, rank_list_queries=0).pictures == {}
    assert run(folder, metric="cosine").score == 1.0


def test_ignored_images_are_not_in_the_picture(market_folder):
    folder = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED, "0001_c1_0.png": BLUE, "-1_c1_0.png": BLUE})
    picture = run(folder).pictures["rank_list"]
    assert not (picture == np.array(BLUE, dtype=np.uint8)).all(axis=2).any()


def test_queries_without_a_match_are_counted_and_left_out(market_folder, caplog):
    folder = market_folder(
        {"0001_c1_0.png": BLUE, "0002_c1_0.png": GREEN, "0007_c1_0.png": RED},
        {"0002_c1_0.png": GREEN, "0007_c2_0.png": RED},
    )
    with caplog.at_level(logging.WARNING):
        evaluation = run(folder)
    assert evaluation.metrics["rank1"] == 1.0
    assert evaluation.counts["num_query_without_match"] == 2
    assert not (evaluation.pictures["rank_list"] == np.array(BLUE, dtype=np.uint8)).all(axis=2).any()
    assert [record.message for record in caplog.records] == [
        f"{folder}: 2 of 3 query images have no true match in the gallery and are left out of the metrics"
    ]


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


@pytest.mark.parametrize("options", [{"metric": "manhattan"}, {"ranks": ()}, {"ranks": (0,)}, {"rank_list_length": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Options.model_validate(options)
