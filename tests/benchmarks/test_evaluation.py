"""The evaluation benchmark: the whole command on a small problem, and the pieces its figures rest on."""

import json
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.cost import measured, memory_in_use
from benchmarks.planted import SIZES, planted_features
from benchmarks.product import PRODUCT_ROWS, bare_products
from benchmarks.textbook import textbook_metrics
from data.features import Features, TestFeatures
from tests.conftest import ROOT, Script

CPU = torch.device("cpu")
PARTS = ["ranking", "roc", "k_reciprocal", "textbook"]


def run(script: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.evaluation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False)


def test_the_command_measures_every_part(script: Script) -> None:
    out = script.folder / "results" / "small"
    process = run(script, "--size", "small", "--repeats", "2", "--out", str(out))
    assert process.returncode == 0, process.stderr
    report = json.loads(out.with_suffix(".json").read_text())
    assert list(report["results"]) == PARTS
    for result in report["results"].values():
        assert result["device"] == "cpu"
        assert result["feature_bytes"] == (200 + 800) * 2048 * 4
        assert len(result["seconds"]) == len(result["peak_bytes_beyond_features"]) == 2
        assert all(0 < peak < 2**30 for peak in result["peak_bytes_beyond_features"])
        medians = {name: statistics.median(seconds) for name, seconds in result["product_seconds"].items()}
        assert set(medians) == {"numpy, blocks", "numpy, whole", "torch, blocks", "torch, whole"}
        for key, kind in (("ratio_to_product_in_blocks", "blocks"), ("ratio_to_whole_product", "whole")):
            fastest = min(medians[f"numpy, {kind}"], medians[f"torch, {kind}"])
            assert result[key] == pytest.approx(statistics.median(result["seconds"]) / fastest)
    # The textbook holds a float32 and an int64 of every pair.
    assert min(report["results"]["textbook"]["peak_bytes_beyond_features"]) > 200 * 800 * 12
    metrics = {part: report["results"][part]["metrics"] for part in PARTS}
    assert metrics["textbook"] == pytest.approx(textbook_metrics(planted_features(SIZES["small"], seed=0)))
    assert metrics["ranking"] == pytest.approx(metrics["textbook"], abs=1e-6)
    assert report["largest_difference_from_textbook"] < 1e-6
    assert metrics["k_reciprocal"]["mAP"] > metrics["ranking"]["mAP"]
    assert 0.9 < metrics["roc"]["auc"] < 1.0
    table = out.with_suffix(".md").read_text()
    assert table == process.stdout.removesuffix("\n")
    for part in PARTS:
        assert f"| {part} (cpu) | {statistics.median(report['results'][part]['seconds']):.3g} (" in table
    assert f"mAP {metrics['ranking']['mAP']:.4f}" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--device", "cuda"], "there is no CUDA device"), (["--repeats", "0"], "at least 1 expected, got 0")],
)
def test_what_cannot_be_measured_is_refused(script: Script, arguments: list[str], message: str) -> None:
    process = run(script, "--size", "small", "--out", str(script.folder / "out"), *arguments)
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(script.folder.iterdir())


def test_planted_features_are_the_same_for_a_seed_and_as_large_as_asked() -> None:
    size = SIZES["small"]._replace(num_gallery=4000)
    features = planted_features(size, seed=3)
    for part, number in zip(features, (200, 4000), strict=True):
        assert part.features.shape == (number, 2048)
        assert part.features.dtype == torch.float32
        assert set(part.camids.tolist()) == set(range(1, 7))
    assert set(features.query.pids.tolist()) == set(range(1, 51))
    shares = [(features.gallery.pids == pid).float().mean().item() for pid in (0, -1)]
    assert shares == pytest.approx([0.15, 0.05], abs=0.02)
    again, other = (planted_features(size, seed) for seed in (3, 4))
    assert again.gallery.features.equal(features.gallery.features)
    assert not other.gallery.features.equal(features.gallery.features)


def test_planted_features_can_be_ranked_but_not_too_well() -> None:
    metrics = textbook_metrics(planted_features(SIZES["small"], seed=0))
    assert 0.6 < metrics["mAP"] < 0.95


def test_the_textbook_knows_the_rules() -> None:
    # By angle:  junk  wrong  RIGHT  own camera  distractor  RIGHT      Positions of the right ones: 1 and 3.
    angles = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).deg2rad()
    gallery = Features(
        torch.stack([angles.cos(), angles.sin()], dim=1) * 5,
        torch.tensor([-1, 9, 7, 7, 0, 7]),
        torch.tensor([2, 2, 2, 1, 2, 3]),
        [],
    )
    # The second query has no match, and the third's pid is that of distractors: both are left out.
    query = Features(torch.tensor([[2.0, 0.0]]).repeat(3, 1), torch.tensor([7, 8, 0]), torch.tensor([1, 1, 1]), [])
    expected = {
        **{"rank1": 0.0, "rank5": 1.0, "rank10": 1.0, "mAP": (1 / 2 + 2 / 4) / 2, "mINP": 2 / 4},
        "mAP_trapezoid": ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2,
    }
    assert textbook_metrics(TestFeatures(query, gallery)) == pytest.approx(expected)


def test_bare_products_multiply_every_query() -> None:
    rng = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(2 * PRODUCT_ROWS + 3, 4, generator=rng), torch.randn(5, 4, generator=rng)
    whole = query @ gallery.T
    # The buffer holds the last block, of 3 queries, and behind it what the block before has left.
    last = torch.cat([whole[-3:], whole[PRODUCT_ROWS + 3 : 2 * PRODUCT_ROWS]])
    products = bare_products(query, gallery)
    assert set(products) == {"numpy, blocks", "numpy, whole", "torch, blocks", "torch, whole"}
    for name, product in products.items():
        torch.testing.assert_close(product(), whole if name.endswith("whole") else last)


@pytest.mark.parametrize("bytes_held", [2**25, 2**27])
def test_memory_that_is_held_and_freed_shows_at_its_peak(bytes_held: int) -> None:
    def work() -> int:
        return int(np.ones(bytes_held, np.uint8)[-1])

    before = memory_in_use(CPU)
    for _ in range(2):  # what the first has freed does not hide the second
        result, cost = measured(work, CPU)
        assert result == 1
        assert cost.seconds > 0
        assert cost.peak_bytes - before == pytest.approx(bytes_held, rel=0.1)
    assert memory_in_use(CPU) - before < bytes_held / 10
    _, cost = measured(lambda: None, CPU)
    assert cost.peak_bytes - before < bytes_held / 10
