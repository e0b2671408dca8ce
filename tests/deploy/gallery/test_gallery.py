import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.gallery.gallery import Gallery, Item, NameTakenError
from tests.deploy.gallery.conftest import DIM, named, unit
from tests.deploy.gallery.test_exact import plain


@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 40),
    k=st.integers(1, 45),
    cameras=st.lists(st.integers(1, 4), max_size=2),
    bounds=st.tuples(st.integers(95, 145), st.integers(95, 145)),
    dead=st.integers(0, 10),
)
def test_a_search_finds_what_a_plain_loop_finds(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    number: int,
    k: int,
    cameras: list[int],
    bounds: tuple[int, int],
    dead: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Of few different vectors, so that there are ties.
    vectors = unit(rng, 12)[rng.integers(0, 12, number)]
    queries = np.concatenate([unit(rng, 2), vectors[:1]])
    items = named(number)
    removed = sorted({int(id_) for id_ in rng.integers(0, number, dead)})
    with Gallery(tmp_path_factory.mktemp("gallery"), DIM, "model") as gallery:
        assert gallery.add(vectors, items) == list(range(number))
        gallery.remove(removed)
        found = gallery.search(queries, k, camids=cameras, start=bounds[0], end=bounds[1])
    wanted = np.array(
        [
            row not in removed and (not cameras or item.camid in cameras) and bounds[0] <= item.time <= bounds[1]
            for row, item in enumerate(items)
        ]
    )
    for query, matches in zip(queries, found, strict=True):
        expected = plain(vectors, wanted, query, k)
        assert [match.id for match in matches] == [row for _, row in expected]
        assert [match.distance for match in matches] == pytest.approx([distance for distance, _ in expected], abs=1e-12)
        assert all(match.item == items[match.id] for match in matches)


def test_a_name_is_taken_once(gallery: Gallery, rng: np.random.Generator) -> None:
    gallery.add(unit(rng, 2), named(2))
    with pytest.raises(NameTakenError, match=r"1\.jpg: "):
        gallery.add(unit(rng, 2), named(2, first=1))
    assert len(gallery) == 2
    gallery.remove([1])
    assert gallery.add(unit(rng, 1), named(1, first=1)) == [2]


@pytest.mark.parametrize(
    ("vectors", "items", "images", "message"),
    [
        (np.ones((1, DIM), np.float32), named(1), (), "unit length, got 2.8"),
        (np.eye(DIM, dtype=np.float64)[:1], named(1), (), "float64"),
        (np.eye(DIM + 1, dtype=np.float32)[:1], named(1), (), r"\(1, 9\)"),
        (np.full((1, DIM), np.nan, np.float32), named(1), (), "unit length, got nan"),
        (np.eye(DIM, dtype=np.float32)[:2], named(1), (), "2 vectors, 1 items"),
        (np.eye(DIM, dtype=np.float32)[:1], named(1), (b"", b""), "2 images"),
        (np.eye(DIM, dtype=np.float32)[:2], named(1) * 2, (), "same name"),
        (np.eye(DIM, dtype=np.float32)[:1], [Item("")], (), "must not be empty"),
        (np.eye(DIM, dtype=np.float32)[:1], [Item("a", time=math.nan)], (), "time"),
        (np.eye(DIM, dtype=np.float32)[:1], [Item("a", camid=2**63)], (), "camid"),
    ],
)
def test_what_cannot_be_added_is_refused_whole(
    gallery: Gallery, vectors: np.ndarray, items: list[Item], images: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gallery.add(vectors, items, images)
    assert len(gallery) == 0


def test_images_of_unknown_time_are_in_no_span(gallery: Gallery, rng: np.random.Generator) -> None:
    gallery.add(unit(rng, 2), [Item("unknown"), Item("known", time=5.0)])
    query = unit(rng, 1)
    assert [match.item.name for match in gallery.search(query, 9, end=5.0)[0]] == ["known"]
    assert len(gallery.search(query, 9)[0]) == 2


def test_searches_go_on_while_images_come_and_go(gallery: Gallery, rng: np.random.Generator) -> None:
    vectors = unit(rng, 400)
    stop = threading.Event()

    def search() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            for query, matches in zip(vectors[:4], gallery.search(vectors[:4], 5), strict=True):
                assert len(matches) == 5
                for match in matches:  # the vector that belongs to the name
                    own = vectors[int(match.item.name)].astype(np.float64)
                    assert match.distance == pytest.approx(((own - query) ** 2).sum() / 2, abs=1e-12)
        return number

    gallery.add(vectors[:50], [Item(str(row)) for row in range(50)])
    with ThreadPoolExecutor(3) as pool:
        searching = [pool.submit(search) for _ in range(3)]
        for row in range(50, 250):
            (id_,) = gallery.add(vectors[row : row + 1], [Item(str(row))])
            gallery.remove([id_ - 50])
        stop.set()
        assert min(one.result() for one in searching) > 0
