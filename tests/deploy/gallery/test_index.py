"""With an index only a near image may be missed; everything else is as with the exact search."""

from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.gallery import Gallery
from tests.deploy.gallery.conftest import distances, ids, named, unit

DIM, ROWS, LATER = 32, 3000, 600


def recall(gallery: Gallery, vectors: dict[int, np.ndarray], queries: np.ndarray, camids: tuple[int, ...]) -> float:
    """Share of the 10 nearest that a search finds; asserts that distances, order and cameras are right."""
    num_shared, items = 0, gallery.items()
    for query, matches in zip(queries, gallery.search(queries, 10, camids=camids), strict=True):
        wanted = [id_ for id_ in vectors if not camids or items[id_].camid in camids]
        exact = distances(np.array([vectors[id_] for id_ in wanted]), query)
        nearest = {wanted[place] for place in np.argsort(exact)[:10]}
        num_shared += len(nearest & {match.id for match in matches})
        own = [distances(vectors[match.id][None], query)[0] for match in matches]
        assert [match.distance for match in matches] == pytest.approx(own, abs=1e-6)
        assert own == pytest.approx(sorted(own), abs=1e-6)
        assert len(matches) == 10
        assert all(match.item.camid in camids for match in matches if camids)
    return num_shared / (10 * len(queries))


@pytest.mark.parametrize("camids", [(), (1, 3), (2,)])
def test_nearly_all_of_the_nearest_are_found_at_their_exact_distances(
    tmp_path: Path, rng: np.random.Generator, camids: tuple[int, ...]
) -> None:
    rows = unit(rng, ROWS + LATER + 10, DIM, clusters=100)
    with Gallery(tmp_path, DIM, "model", index_rows=ROWS) as gallery:
        for first in range(0, ROWS, 1000):
            gallery.add(rows[first : first + 1000], named(1000, first))
        gallery.optimize()
        with gallery._table("read") as dataset:
            assert [index.num_rows_indexed for index in dataset.describe_indices()] == [ROWS]
        # What is added later is found before the index has it, and after.
        gallery.add(rows[ROWS : ROWS + LATER], named(LATER, ROWS))
        by_name = ids(gallery)
        gallery.remove([by_name.pop(f"{place}.jpg") for place in range(0, ROWS + LATER, 7)])
        vectors = {id_: rows[int(name.removesuffix(".jpg"))] for name, id_ in by_name.items()}
        assert recall(gallery, vectors, rows[-10:], camids) >= 0.95
    with Gallery(tmp_path, DIM, "model", index_rows=ROWS) as gallery:
        gallery.optimize()
        with gallery._table("read") as dataset:
            (index,) = dataset.describe_indices()
            assert index.num_rows_indexed == len(by_name)
        assert recall(gallery, vectors, rows[-10:], camids) >= 0.95


def test_few_images_have_no_index(tmp_path: Path, rng: np.random.Generator) -> None:
    with Gallery(tmp_path, DIM, "model", index_rows=100) as gallery:
        gallery.add(unit(rng, 99, DIM), named(99))
        gallery.optimize()
        with gallery._table("read") as dataset:
            assert dataset.describe_indices() == []
