"""With an index of faiss only a near image may be missed; everything else is as with the exact search."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.approximate import EXACT_ROWS, Choice, choose
from deploy.gallery.gallery import Gallery
from tests.deploy.gallery.conftest import named, unit

DIM = 32


@pytest.mark.parametrize("index", ["hnsw", "ivf_pq"])
def test_nearly_all_of_the_nearest_are_found_at_their_exact_distances(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, index: Choice
) -> None:
    caplog.set_level(logging.INFO)
    vectors, queries = np.split(unit(rng, 3020, DIM, clusters=100), [3000])
    with Gallery(tmp_path, DIM, "model", index=index) as gallery:
        gallery.add(vectors[:2500], named(2500))
        gallery.search(queries[:1], 10)  # builds the index; the other rows are added to it
        assert "built over 2,500 rows" in caplog.text
        gallery.add(vectors[2500:], named(500, first=2500))
        gallery.remove(range(0, 3000, 7))
        for camids in ((), (1, 3)):
            approximate = gallery.search(queries, 10, camids=camids)
            exact = _exactly(vectors, queries, camids or (1, 2, 3))
            shared = [len({one.id for one in a} & set(b)) for a, b in zip(approximate, exact, strict=True)]
            assert np.mean(shared) >= 0.95 * 10
            for query, matches in zip(queries, approximate, strict=True):
                distances = [1 - float(vectors[one.id].astype(np.float64) @ query) for one in matches]
                assert [one.distance for one in matches] == pytest.approx(distances, abs=1e-6)
                assert distances == sorted(distances)
                assert all(one.id % 7 and (not camids or one.item.camid != 2) for one in matches)
    with Gallery(tmp_path, DIM, "model", index=index) as gallery:
        again = gallery.search(queries, 10, camids=(1, 3))
    assert "loaded with 3,000 rows" in caplog.text
    assert [[one.id for one in row] for row in again] == [[one.id for one in row] for row in approximate]


def _exactly(vectors: np.ndarray, queries: np.ndarray, camids: tuple[int, ...]) -> list[list[int]]:
    rows = [row for row in range(len(vectors)) if row % 7 and 1 + row % 3 in camids]
    distances = 1 - queries.astype(np.float64) @ vectors[rows].astype(np.float64).T
    return [[rows[place] for place in np.argsort(row, kind="stable")[:10]] for row in distances]


@pytest.mark.parametrize("case", ["damaged", "of more rows than an older copy of the records"])
def test_an_index_that_does_not_fit_is_built_again(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    vectors = unit(rng, 60, DIM)
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(vectors[:40], named(40))
    shutil.copy(tmp_path / "items.lmdb", tmp_path / "copy")
    with Gallery(tmp_path, DIM, "model", index="hnsw") as gallery:
        if case != "damaged":
            gallery.add(vectors[40:], named(20, first=40))
        gallery.search(vectors[:1], 1)
    (saved,) = tmp_path.glob("*.faiss")
    if case == "damaged":
        saved.write_bytes(saved.read_bytes()[:-100] + bytes(100))
    (tmp_path / "copy").replace(tmp_path / "items.lmdb")
    caplog.set_level(logging.INFO)
    with Gallery(tmp_path, DIM, "model", index="hnsw") as gallery:
        assert [match.id for match in gallery.search(vectors[30:31], 1)[0]] == [30]
    assert "built over 40 rows" in caplog.text


def test_the_size_chooses_the_index() -> None:
    assert choose("auto", EXACT_ROWS, 512) is None
    assert choose("auto", EXACT_ROWS + 1, 512) == "hnsw"
    assert choose("auto", 20 * EXACT_ROWS, 512) == "ivf_pq"
    assert choose("exact", 20 * EXACT_ROWS, 512) is None
    assert choose("ivf_pq", 10, 512) is None  # too few to be trained on
