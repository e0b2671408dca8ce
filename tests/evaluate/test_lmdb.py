"""Plug-ins measure a packed data set as they do its folder, and find its images for their pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from config.params import Params
from data.dataset import read_dataset
from data.features import Features
from data.lmdb.reading import read_lmdb
from data.lmdb.writing import pack_dataset
from data.options import DataOptions
from evaluate.classification_evaluate import class_names
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.plugins import evaluate, plugin_options
from evaluate.core.report.images import why_no_pictures
from utils.errors import DataError


def pack(folder: Path) -> Path:
    """The folder's data set in a file beside it."""
    out = folder.with_name("packed.lmdb")
    pack_dataset(out, DataOptions(batches_dir=str(folder)))
    return out


def params(batches_dir: Path, plugin: str, **options: Any) -> EvalContext:
    chosen = plugin_options(plugin).model_validate({"type": plugin, **options})
    config = Params(batches_dir=str(batches_dir), img_h=32, img_w=16)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    return EvalContext(config.model_copy(update={"evaluation_params": chosen}), network)


@pytest.fixture
def market(tmp_path: Path, make_market: Callable[[Path], Path]) -> Path:
    return make_market(tmp_path / "market")


def test_retrieval(market: Path) -> None:
    folder, packed = (evaluate(params(root, "market_evaluate")) for root in (market, pack(market)))
    assert packed.metrics == folder.metrics
    assert packed.counts == folder.counts


@pytest.mark.parametrize("key", ["batches_dir", "msmt_dir"])
def test_msmt17_in_either_place(key: str, msmt_folder: Path, market: Path) -> None:
    def measure(root: Path) -> dict[str, float]:
        config = params(root, "msmt_evaluate")
        if key == "msmt_dir":
            config = params(market, "msmt_evaluate", msmt_dir=str(root))
        return dict(evaluate(config).metrics)

    assert measure(pack(msmt_folder)) == measure(msmt_folder)


def test_another_data_set_is_not_taken_for_msmt17(market: Path) -> None:
    packed = pack(market)
    with pytest.raises(DataError, match=rf"evaluation_params\.msmt_dir: {packed}: no MSMT17 here"):
        evaluate(params(packed, "msmt_evaluate"))


def test_pairs_drawn_and_pairs_listed(market: Path, tmp_path: Path) -> None:
    packed = pack(market)
    options = {"num_pairs": 8, "num_folds": 2}
    folder_drawn, packed_drawn = (evaluate(params(root, "lfw_evaluate", **options)) for root in (market, packed))
    assert packed_drawn.metrics == folder_drawn.metrics

    faces = tmp_path / "faces"
    for name, number in (("Ann", 1), ("Ann", 2), ("Bob", 1)):
        path = faces / name / f"{name}_{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (90 * number, 10, 10)).save(path)
    pairs_file = tmp_path / "pairs.txt"
    pairs_file.write_text("1\nAnn 1 2\nAnn 1 Bob 1\n")
    (tmp_path / "packed.lmdb").unlink()
    folder_listed, packed_listed = (
        evaluate(params(root, "lfw_evaluate", pairs_file=str(pairs_file))) for root in (faces, pack(faces))
    )
    assert packed_listed.metrics == folder_listed.metrics
    pairs_file.write_text("1\nAnn 1 3\nAnn 1 Bob 1\n")
    with pytest.raises(DataError, match=r"no such image: .*packed\.lmdb/Ann/Ann_0003\.jpg"):
        evaluate(params(tmp_path / "packed.lmdb", "lfw_evaluate", pairs_file=str(pairs_file)))


def test_classes_keep_their_names(tmp_path: Path, image_files: Callable[..., list[Path]]) -> None:
    for name, path in zip(("zoe", "adam"), image_files([(1, 2, 3), (4, 5, 6)]), strict=True):
        (tmp_path / "set" / name).mkdir(parents=True)
        path.rename(tmp_path / "set" / name / path.name)
    folder = read_dataset(DataOptions(batches_dir=str(tmp_path / "set")))
    assert class_names(read_lmdb(pack(tmp_path / "set")).train) == class_names(folder.train) == {1: "adam", 2: "zoe"}


def test_reports_look_for_images_where_they_are(market: Path) -> None:
    packed = pack(market)
    found: Features = extract(params(packed, "market_evaluate"), read_lmdb(packed).query, "query")
    assert why_no_pictures(found) == ""
    packed.unlink()
    assert "no longer where they were" in why_no_pictures(found)
    packed.write_text("another file")
    assert "no longer where they were" in why_no_pictures(found)
