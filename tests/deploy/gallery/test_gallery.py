import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.gallery.gallery import Gallery, Item, NameTakenError
from tests.deploy.gallery.conftest import DIM, check_matches, distances, ids, named, unit
from utils.errors import DataError


@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 40),
    k=st.integers(1, 45),
    cameras=st.lists(st.integers(1, 4), max_size=2),
    bounds=st.tuples(st.sampled_from([-math.inf, 95, 110, 125]), st.sampled_from([115, 130, 145, math.inf])),
    removed=st.integers(0, 10),
)
def test_a_search_finds_what_a_plain_loop_finds(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    number: int,
    k: int,
    cameras: list[int],
    bounds: tuple[float, float],
    removed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Of few different vectors, so that there are ties.
    vectors = unit(rng, 12)[rng.integers(0, 12, number)]
    queries = np.concatenate([unit(rng, 2), vectors[:1]])
    items = named(number)
    with Gallery(tmp_path_factory.mktemp("gallery"), DIM, "model") as gallery:
        by_id = dict(zip(gallery.add(vectors, items), zip(vectors, items, strict=True), strict=True))
        gone = sorted({list(by_id)[place] for place in rng.integers(0, number, removed)})
        gallery.remove(gone)
        found = gallery.search(queries, k, camids=cameras, start=bounds[0], end=bounds[1])
    wanted = {
        id_: vector
        for id_, (vector, item) in by_id.items()
        if id_ not in gone and (not cameras or item.camid in cameras) and bounds[0] <= item.time <= bounds[1]
    }
    for query, matches in zip(queries, found, strict=True):
        check_matches(matches, wanted, query, k)
        assert all(match.item == by_id[match.id][1] for match in matches)
    assert all(match.distance == 0 for match in found[2] if np.array_equal(wanted[match.id], queries[2]))


def test_there_may_be_no_images_or_no_queries(gallery: Gallery, rng: np.random.Generator) -> None:
    assert gallery.search(unit(rng, 2), 5) == [[], []]
    assert gallery.search(unit(rng, 0), 5) == []
    assert gallery.add(unit(rng, 0), []) == []
    assert (len(gallery), gallery.items(), gallery.cameras()) == (0, {}, [])


def test_what_was_added_is_there_after_reopening(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 5)
    with Gallery(tmp_path, DIM, "model") as gallery:
        added = gallery.add(vectors[:3], named(3), [b"a", b"b", b"c"])
        gallery.remove(added[1:2])
        added += gallery.add(vectors[3:], named(2, first=3))
    assert len(set(added)) == 5
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert ids(gallery) == {f"{place}.jpg": added[place] for place in (0, 2, 3, 4)}
        assert len(gallery) == 4
        assert gallery.cameras() == [1, 2, 3]
        assert (gallery.image(added[0]), gallery.image(added[3])) == (b"a", None)
        assert np.array_equal(gallery.vector(added[4]), vectors[4])
        assert gallery.item(added[2]) == named(3)[2]
        for unknown in (added[1], -1, 2**63, 2**64):
            for ask in (gallery.item, gallery.vector, gallery.image, lambda id_: gallery.remove([added[0], id_])):
                with pytest.raises(KeyError):
                    ask(unknown)
        assert len(gallery) == 4


def test_no_id_is_used_again(tmp_path: Path, rng: np.random.Generator) -> None:
    seen: set[int] = set()
    for _ in range(3):
        with Gallery(tmp_path, DIM, "model") as gallery:
            added = gallery.add(unit(rng, 4), named(4))
            assert seen.isdisjoint(added)
            seen |= set(added)
            gallery.remove(added)
            gallery.optimize()
    assert len(seen) == 12


def test_an_index_belongs_to_one_model(tmp_path: Path) -> None:
    Gallery(tmp_path, DIM, "model")
    with pytest.raises(DataError, match=r"model model .*, but .* other .* needed"):
        Gallery(tmp_path, DIM, "other")
    with pytest.raises(DataError, match=r"size 8 .*, but .* size 9"):
        Gallery(tmp_path, DIM + 1, "model")


def test_an_index_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Not a directory|cannot be opened"):
        Gallery(tmp_path / "file" / "index", DIM, "model")


def test_a_damaged_index_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 5), named(5))
    for path in tmp_path.rglob("*.manifest"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="cannot be opened"):
        Gallery(tmp_path, DIM, "model")


def test_a_name_is_taken_once(gallery: Gallery, rng: np.random.Generator) -> None:
    first = gallery.add(unit(rng, 2), named(2))
    with pytest.raises(NameTakenError, match=r"1\.jpg: "):
        gallery.add(unit(rng, 2), named(2, first=1))
    assert len(gallery) == 2
    gallery.remove(first[1:])
    assert gallery.add(unit(rng, 1), named(1, first=1))[0] not in first


def test_every_name_of_a_file_is_kept(gallery: Gallery, rng: np.random.Generator) -> None:
    names = ["é", "e\u0301", "\udcff.jpg", "%FF.jpg", "100%.jpg", "it's", 'a"b\\c', "new\nline", "x\0y", "深/a.png"]
    by_name = dict(zip(names, gallery.add(unit(rng, len(names)), [Item(name) for name in names]), strict=True))
    assert ids(gallery) == by_name
    for name in names:
        with pytest.raises(NameTakenError):
            gallery.add(unit(rng, 1), [Item(name)])
        assert gallery.item(by_name[name]).name == name


@pytest.mark.parametrize(
    ("vectors", "items", "images", "message"),
    [
        (np.ones((1, DIM), np.float32), named(1), (), "unit length"),
        (np.eye(DIM + 1, dtype=np.float32)[:1], named(1), (), "8"),
        (np.full((1, DIM), np.nan, np.float32), named(1), (), "unit length"),
        (np.eye(DIM, dtype=np.float32)[:2], named(1), (), "longer"),
        (np.eye(DIM, dtype=np.float32)[:1], named(1), (b"", b""), "longer"),
        (np.eye(DIM, dtype=np.float32)[:2], named(1) * 2, (), "same name"),
        (np.eye(DIM, dtype=np.float32)[:1], [Item("\ud800")], (), "surrogates"),
        (np.eye(DIM, dtype=np.float32)[:1], [Item("a", camid=2**63)], (), "large"),
    ],
)
def test_what_cannot_be_added_is_refused_whole(
    gallery: Gallery, vectors: np.ndarray, items: list[Item], images: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises((ValueError, OverflowError), match=message):
        gallery.add(vectors, items, images)
    assert len(gallery) == 0


def test_images_of_unknown_time_are_in_no_span(gallery: Gallery, rng: np.random.Generator) -> None:
    gallery.add(unit(rng, 2), [Item("unknown"), Item("known", time=5.0)])
    query = unit(rng, 1)
    assert [match.item.name for match in gallery.search(query, 9, end=5.0)[0]] == ["known"]
    assert len(gallery.search(query, 9)[0]) == 2


def test_searches_go_on_while_images_come_and_go(gallery: Gallery, rng: np.random.Generator) -> None:
    vectors = unit(rng, 200)
    stop = threading.Event()

    def search() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            for query, matches in zip(vectors[:4], gallery.search(vectors[:4], 5), strict=True):
                assert len(matches) == 5
                for match in matches:  # the vector that belongs to the name
                    own = vectors[int(match.item.name)]
                    assert match.distance == pytest.approx(distances(own[None], query)[0], abs=1e-6)
        return number

    added = gallery.add(vectors[:50], [Item(str(row)) for row in range(50)])
    with ThreadPoolExecutor(3) as pool:
        searching = [pool.submit(search) for _ in range(3)]
        try:
            for row in range(50, 150):  # files are merged in the background meanwhile
                added += gallery.add(vectors[row : row + 1], [Item(str(row))])
                gallery.remove([added[row - 50]])
        finally:
            stop.set()
        assert min(one.result() for one in searching) > 0
    assert ids(gallery) == {str(row): added[row] for row in range(100, 150)}
