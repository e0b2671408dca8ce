"""With an index of faiss only a near image may be missed; everything else is as with the exact search."""

import logging
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.approximate import EXACT_ROWS, Choice, choose
from deploy.gallery.gallery import Gallery, Match
from tests.deploy.gallery.conftest import named, unit

DIM = 32


def clustered(rng: np.random.Generator, number: int) -> np.ndarray:
    """Directions in groups, as images of persons are."""
    centres = unit(rng, 100, DIM)
    rows = centres[rng.integers(0, 100, number)] + 0.1 * rng.normal(size=(number, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def found(folder: Path, index: Choice, queries: np.ndarray, camids: tuple[int, ...] = ()) -> list[list[Match]]:
    with Gallery(folder, DIM, "model", index=index) as gallery:
        return gallery.search(queries, 10, camids=camids)


@pytest.mark.parametrize("index", ["hnsw", "ivf_pq"])
def test_nearly_all_of_the_nearest_are_found_at_their_exact_distances(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, index: Choice
) -> None:
    vectors, queries = np.split(clustered(rng, 3020), [3000])
    with Gallery(tmp_path, DIM, "model", index=index) as gallery:
        gallery.add(vectors[:2500], named(2500))
        with caplog.at_level(logging.INFO):
            gallery.search(queries[:1], 10)  # builds the index; what comes now is added to it
        assert "built over 2,500 rows" in caplog.text
        gallery.add(vectors[2500:], named(500, first=2500))
        gallery.remove(range(0, 3000, 7))
        for camids in ((), (1, 3)):
            approximate = gallery.search(queries, 10, camids=camids)
            exact = _exactly(vectors, queries, camids or (1, 2, 3))
            recall = np.mean(
                [len({one.id for one in a} & set(b)) / 10 for a, b in zip(approximate, exact, strict=True)]
            )
            assert recall >= 0.95
            for query, matches in zip(queries, approximate, strict=True):
                distances = [1 - float(vectors[one.id].astype(np.float64) @ query) for one in matches]
                assert [one.distance for one in matches] == pytest.approx(distances, abs=1e-6)
                assert distances == sorted(distances)
                assert all(one.id % 7 and (not camids or one.item.camid != 2) for one in matches)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = found(tmp_path, index, queries, (1, 3))
    assert "3,000 rows were indexed before" in caplog.text
    assert [[one.id for one in row] for row in again] == [[one.id for one in row] for row in approximate]


def _exactly(vectors: np.ndarray, queries: np.ndarray, camids: tuple[int, ...]) -> list[list[int]]:
    rows = [row for row in range(len(vectors)) if row % 7 and 1 + row % 3 in camids]
    distances = 1 - queries.astype(np.float64) @ vectors[rows].astype(np.float64).T
    return [[rows[place] for place in np.argsort(row, kind="stable")[:10]] for row in distances]


def test_a_damaged_index_is_built_anew(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = clustered(rng, 1500)
    with Gallery(tmp_path, DIM, "model", index="hnsw") as gallery:
        gallery.add(vectors, named(1500))
        expected = gallery.search(vectors[:3], 5)
    (saved,) = tmp_path.glob("*.faiss")
    saved.write_bytes(saved.read_bytes()[:-100] + bytes(100))
    with caplog.at_level(logging.INFO):
        again = found(tmp_path, "hnsw", vectors[:3])
    assert "built over 1,500 rows" in caplog.text
    assert [matches[0] for matches in again] == [matches[0] for matches in expected]


def test_the_size_chooses_the_index() -> None:
    assert choose("auto", EXACT_ROWS, 512).kind is None
    assert choose("auto", EXACT_ROWS + 1, 512).kind == "hnsw"
    assert choose("auto", 20 * EXACT_ROWS, 512).kind == "ivf_pq"
    assert choose("exact", 20 * EXACT_ROWS, 512).kind is None
    assert choose("ivf_pq", 10, 512).kind is None  # nothing to train on
