"""The MSMT17 plug-in: a network trained elsewhere, measured on MSMT17."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from config.params import Params
from data.features import Features, TestFeatures
from data.samples import Dataset
from evaluate.core.context import EvalContext
from evaluate.core.plugins import evaluate, load_plugin
from evaluate.market_evaluate import Options as MarketOptions
from evaluate.msmt_evaluate import Options
from tests.evaluate.conftest import RED
from utils.errors import DataError

NO_DATA = Dataset([], [], [], [])


def params(batches_dir: Path | str, **options: Any) -> Params:
    plugin = Options.model_validate({"type": "msmt_evaluate", "metric": "euclidean", "ranks": (1, 2)} | options)
    return Params(batches_dir=str(batches_dir), img_h=32, img_w=16, evaluation_params=plugin)


def network() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_a_network_of_market_is_measured_on_msmt17(msmt_folder: Path, market_folder: Callable[..., Path]) -> None:
    # The query images of the data set trained on would give 1.0 everywhere.
    market = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    config = params(market, msmt_dir=str(msmt_folder))
    load_plugin("msmt_evaluate").check_data(NO_DATA, config)
    evaluation = evaluate(EvalContext(config, network()))
    assert (evaluation.metrics["rank1"], evaluation.metrics["rank2"]) == (0.5, 1.0)
    assert (evaluation.score, evaluation.score_name) == (pytest.approx((1 + 1 / 2) / 2), "mAP")
    assert (evaluation.counts["num_query"], evaluation.counts["num_gallery"]) == (2, 4)


class AsksForCameras(nn.Sequential):
    """Remembers whether it was told any."""

    camids = (1,)

    def forward(self, input: torch.Tensor, *camids: torch.Tensor) -> torch.Tensor:
        self.told = bool(camids)
        return super().forward(input)


def test_cameras_of_msmt17_are_not_those_of_another_data_set(
    msmt_folder: Path, market_folder: Callable[..., Path]
) -> None:
    market = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    net = AsksForCameras(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    elsewhere = {"msmt_dir": str(msmt_folder)}
    configs = params(market, **elsewhere), params(market, **elsewhere, same_cameras=True), params(msmt_folder)
    for config, same in zip(configs, (False, True, True), strict=True):
        evaluate(EvalContext(config, net))
        assert net.told == same


def test_without_a_folder_it_is_the_data_set_itself(msmt_folder: Path) -> None:
    assert evaluate(EvalContext(params(msmt_folder), network())).score == pytest.approx(0.75)


def test_features_of_a_file_need_no_folder() -> None:
    def features(rows: list[list[float]], camid: int) -> Features:
        return Features(torch.tensor(rows), torch.tensor([1, 2]), torch.full((2,), camid), [])

    given = TestFeatures(features([[1.0, 0.0], [0.0, 1.0]], 1), features([[0.9, 0.1], [1.0, 0.0]], 2))
    # Person 1's query is nearest to person 2's image; person 2's query is nearer to person 1's.
    assert evaluate(EvalContext(params("missing"), features=given)).metrics["rank1"] == 0.0


@pytest.mark.parametrize("msmt_dir", ["", "missing"])
def test_a_folder_without_msmt17_is_refused_before_training(
    msmt_dir: str, tmp_path: Path, market_folder: Callable[..., Path]
) -> None:
    market = market_folder({"0001_c1_0.png": RED}, {"0001_c2_0.png": RED})
    config = params(market, msmt_dir=msmt_dir and str(tmp_path / msmt_dir))
    where = tmp_path / msmt_dir if msmt_dir else market
    message = rf"evaluation_params\.msmt_dir: {where}: no MSMT17 here; expected list_"
    with pytest.raises(DataError, match=message):
        load_plugin("msmt_evaluate").check_data(NO_DATA, config)
    with pytest.raises(DataError, match=message):
        evaluate(EvalContext(config))


def test_messages_name_the_folder_of_msmt17(msmt_folder: Path) -> None:
    (msmt_folder / "list_query.txt").unlink()
    config = params("synthetic", msmt_dir=str(msmt_folder))
    with pytest.raises(DataError, match=f"^{msmt_folder}: no query images"):
        load_plugin("msmt_evaluate").check_data(NO_DATA, config)


def test_every_option_of_market_evaluate_is_one_here() -> None:
    assert Options.model_fields.keys() == MarketOptions.model_fields.keys() | {"msmt_dir"}
