import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit import divide, join, main, row_of, swap
from data.samples import Sample
from tests.conftest import Script

SAMPLES = [Sample(Path(f"{pid}_{image}.jpg"), pid, image % 3) for pid in range(1, 41) for image in range(6)]


def test_mistakes_are_planted_as_asked() -> None:
    rng = np.random.default_rng(0)
    swapped = swap(SAMPLES, 0.05, rng)
    changed = {row for row, sample in enumerate(swapped.samples) if sample.pid != SAMPLES[row].pid}
    assert changed == swapped.mistakes
    assert len(changed) == 12

    joined = join(SAMPLES, 0.1, rng)
    sizes = Counter(sample.pid for sample in joined.samples)
    assert {pid for pid, size in sizes.items() if size == 12} == joined.mistakes
    assert len(joined.mistakes) == 4
    assert len(sizes) == 36

    divided = divide(SAMPLES, 0.1, rng)
    assert len({sample.pid for sample in divided.samples}) == 44
    for first, second in divided.mistakes:
        cameras = [{sample.camid for sample in divided.samples if sample.pid == pid} for pid in (first, second)]
        assert cameras[0].isdisjoint(cameras[1])
    assert swap(SAMPLES, 0.0, rng).samples == SAMPLES


def test_precision_and_recall() -> None:
    row = row_of("", {1, 2, 3, 4}, {3, 4, 5, 6, 7, 8, 9, 10}, 1)
    assert (row["precision"], row["recall"], row["right"]) == (50, 25, 50)
    assert row_of("", set(), set())["precision"] == "–"


@pytest.mark.slow
def test_mistakes_are_judged_by_one_network_and_wrong_labels_trained_on_audited_and_corrected(
    script: Script, make_market: Callable[[Path], Path], tmp_path: Path
) -> None:
    market = make_market(script.folder / "market")
    params = script.write_params(epoch=1)
    arguments = ["--rates", "0.1", "--working_dir", str(tmp_path / "runs"), "--out", str(tmp_path / "audit")]
    main([str(market), "--retrain", str(params), *arguments])
    (rows,) = json.loads((tmp_path / "audit.json").read_text())["tables"].values()
    assert [row["labels"] for row in rows] == ["right", "wrong", "corrected"]
    assert rows[2]["mistakes"] == 3
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"right", "wrong", "corrected", "audit"}

    best = tmp_path / "runs" / "right" / "model_best.pth"
    main([str(market), "--from", str(best), "--rates", "0.1", "--out", str(tmp_path / "planted")])
    (rows,) = json.loads((tmp_path / "planted.json").read_text())["tables"].values()
    names = ["0% wrong labels", "10% wrong labels", "10% two persons", "10% one person", "copies of query images"]
    assert [row["planted"] for row in rows] == names
    assert (rows[-1]["precision"], rows[-1]["recall"]) == (100, 100)
