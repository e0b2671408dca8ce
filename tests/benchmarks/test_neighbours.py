import json
from pathlib import Path

import pytest

from benchmarks import neighbours


def test_each_stage_and_the_quality_of_clusters_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(neighbours, "SEARCHES", ((8, 1), (8, 8), (1000, 1)))
    neighbours.main(["--rows", "400", "--out", str(tmp_path / "out")])
    assert "Clustering 400 embeddings" in capsys.readouterr().out
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    exact, approximate = tables["400 embeddings, exact search"], tables["400 embeddings, approximate search"]
    assert [row[""] for row in exact] == ["neighbours", "Jaccard", "DBSCAN", "all"]
    assert exact[-1]["seconds"] == pytest.approx(sum(row["seconds"] for row in exact[:-1]))
    assert (exact[-1]["recall"], exact[-1]["ARI to exact"]) == (1.0, 1.0)
    assert 0.3 < exact[-1]["ARI to identities"] <= 1
    assert [(row["cells"], row["probes"]) for row in approximate] == [(8, 1), (8, 8)]
    assert approximate[0]["recall"] < approximate[1]["recall"] == 1.0
