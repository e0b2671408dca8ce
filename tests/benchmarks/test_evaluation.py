"""The evaluation benchmark: the whole command on a small problem, and the pieces its figures rest on."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.evaluation import PARTS, main, textbook
from benchmarks.measure import Contestant, measured, take_turns
from benchmarks.planted import SIZES, planted_features
from data.features import Features, TestFeatures
from tests.conftest import ROOT, Script
from utils.errors import ParamsError

CPU = torch.device("cpu")


def run(script: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.evaluation", "--size", "small", *arguments]
    return subprocess.run(command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_measures_every_part(script: Script) -> None:
    out = script.folder / "small"
    process = run(script, "--repeats", "2", "--images", "32", "--out", str(out))
    assert process.returncode == 0, process.stderr
    rows = json.loads(out.with_suffix(".json").read_text())["tables"][""]
    assert [row["part"] for row in rows] == [f"{part} (cpu)" for part in (*PARTS, "extraction")]
    for row in rows:
        assert len(row["seconds"]) == len(row["MiB"]) == 2
    assert "images/s" in rows[-1]
    for name, value in textbook(planted_features(SIZES["small"], seed=0)).items():
        assert rows[0][name] == pytest.approx(value, abs=1e-6)
        assert rows[3][name] == pytest.approx(value)


def test_parts_agree_on_a_small_problem() -> None:
    features = planted_features(SIZES["small"], seed=0)
    found = {part: work(features) for part, work in PARTS.items()}
    assert found["ranking"] == pytest.approx(found["textbook"], abs=1e-6)
    assert found["k_reciprocal"]["mAP"] > found["ranking"]["mAP"]
    assert 0.9 < found["roc"]["auc"] < 1.0


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        main(["--size", "small", "--device", "cuda"])
    with pytest.raises(SystemExit):
        main(["--size", "small", "--repeats", "0"])


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
    metrics = textbook(planted_features(SIZES["small"], seed=0))
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
    assert textbook(TestFeatures(query, gallery)) == pytest.approx(expected)


@pytest.mark.parametrize("bytes_held", [2**25, 2**27])
def test_memory_that_is_held_and_freed_shows_at_its_peak(bytes_held: int) -> None:
    def work() -> int:
        return int(np.ones(bytes_held, np.uint8)[-1])

    for _ in range(2):  # what the first has freed does not hide the second
        result, cost = measured(work, CPU)
        assert result == 1
        assert cost.seconds > 0
        assert cost.peak_mib == pytest.approx(bytes_held / 2**20, rel=0.1)
    _, cost = measured(lambda: None, CPU)
    assert cost.peak_mib < bytes_held / 2**20 / 10


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count


@pytest.mark.slow
def test_contestants_answer_from_processes_of_their_own() -> None:
    with Contestant(Counter, 5) as first, Contestant(Counter, 7) as second:
        asked = {"first": lambda: first.ask("add", 1), "second": lambda: second.ask("add", 2)}
        assert take_turns(asked, 3) == {"first": [6, 7, 8], "second": [9, 11, 13]}
        with pytest.raises(TypeError):
            first.ask("add", None)


def test_turns_go_forwards_and_backwards() -> None:
    order: list[str] = []
    take_turns({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert order == list("abccbaabc")
