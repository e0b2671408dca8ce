import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gallery import DIM, Embeddings, main


def test_filling_and_searching_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rows", "300", "--queries", "2", "--out", str(tmp_path / "out")])
    assert "300 embeddings" in capsys.readouterr().out
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert all(row["rows/s"] > 0 for row in tables["Filling"] if "adding" in row[""])
    searches = tables["Searching for 10 (exact)"]
    assert [row["recall"] for row in searches[:2]] == [1.0, 1.0]


def test_embeddings_are_like_those_of_a_model() -> None:
    vectors = Embeddings(100).draw(1000).astype(np.float64)
    assert vectors.shape == (1000, DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = (vectors @ vectors.T)[np.triu_indices(1000, 1)]
    assert np.mean(cosines > 0.5) == pytest.approx(0.03, abs=0.02)  # mostly within identities
    assert np.median(cosines) == pytest.approx(0, abs=0.05)
