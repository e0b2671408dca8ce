"""A gallery against a plain list of the same images, through additions, removals and new openings."""

import threading
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery import records
from deploy.gallery.gallery import Gallery, Item, Match, NameTakenError
from utils.errors import DataError
from utils.locks import LockedError

DIM = 16


def opened(folder: Path, index="exact") -> Gallery:
    return Gallery(folder, DIM, "model", index=index)


def plain_search(kept: dict[int, tuple[Item, np.ndarray]], query: np.ndarray, k: int, passes) -> list[tuple[int, Item]]:
    """Ids and items, nearest first."""
    distances = [
        (float(((vector.astype(float) - query.astype(float)) ** 2).sum() / 2), id_, item)
        for id_, (item, vector) in kept.items()
        if passes(item)
    ]
    return [(id_, item) for _, id_, item in sorted(distances)[:k]]


def test_a_life_of_additions_removals_and_openings(tmp_path: Path, make_vectors, make_items, rng) -> None:
    kept: dict[int, tuple[Item, np.ndarray]] = {}
    seen: set[int] = set()
    for round_ in range(6):
        with opened(tmp_path) as gallery:
            vectors, items = make_vectors(40), make_items(40, 40 * round_)
            ids = gallery.add(vectors, items)
            assert not seen.intersection(ids), "an id is given once"
            seen.update(ids)
            kept |= {id_: both for id_, *both in zip(ids, items, vectors, strict=True)}  # type: ignore[misc]
            removed = rng.permutation(list(kept))[: 30 if round_ % 2 else 45].tolist()[: len(kept) - 1]
            gallery.remove(removed)
            for id_ in removed:
                del kept[id_]
            assert len(gallery) == len(kept)
            assert gallery.ids() == {item.name: id_ for id_, (item, _) in kept.items()}
            queries = make_vectors(3)
            for filters, passes in (
                ({}, lambda item: True),
                ({"camids": [1, 3]}, lambda item: item.camid in (1, 3)),
                ({"start": 1010.0, "end": 1130.0}, lambda item: 1010 <= item.time <= 1130),
                ({"camids": {2}, "end": 1100.0}, lambda item: item.camid == 2 and item.time <= 1100),
            ):
                for matches, query in zip(gallery.search(queries, 7, **filters), queries, strict=True):
                    expected = plain_search(kept, query, 7, passes)
                    assert [(match.id, match.item) for match in matches] == expected
            for id_, (item, vector) in kept.items():
                assert gallery.item(id_) == item
                assert gallery.vector(id_).tolist() == vector.tolist()


def test_rows_of_removed_items_are_given_back_when_they_are_the_most(tmp_path: Path, make_vectors, make_items) -> None:
    vectors = make_vectors(20)
    with opened(tmp_path) as gallery:
        ids = gallery.add(vectors, make_items(20), [b"%d" % row for row in range(20)])
        gallery.remove(ids[:10])
    with opened(tmp_path) as gallery:
        assert (tmp_path / "vectors-1.f32").exists(), "half of the rows are not more than half"
        gallery.remove([ids[15]])
    with opened(tmp_path) as gallery:
        assert [path.name for path in tmp_path.glob("vectors-*")] == ["vectors-2.f32"]
        assert list(gallery.ids().values()) == ids[10:15] + ids[16:]
        for id_ in gallery.ids().values():
            assert gallery.image(id_) == b"%d" % id_
            assert gallery.search(vectors[id_ : id_ + 1], 1)[0] == [Match(id_, gallery.item(id_), 0.0)]
        assert gallery.add(make_vectors(1), [Item("new")]) == [20]
    opened(tmp_path).close()


def test_items_come_back_as_they_were(tmp_path: Path, make_vectors) -> None:
    items = [Item("José/一.png", -3, 0.1, "12:34"), Item("a" * 3000), Item("\udcff.png", 2**63 - 1, -1e9)]
    with opened(tmp_path) as gallery:
        ids = gallery.add(make_vectors(3), items, [b"", b"\0" * 100_000, b"crop"])
    with opened(tmp_path) as gallery:
        assert [gallery.item(id_) for id_ in ids] == items
        assert gallery.items() == dict(zip(ids, items, strict=True))
        assert [gallery.image(id_) for id_ in ids] == [b"", b"\0" * 100_000, b"crop"]
        gallery.remove(ids[:1])
        for ask in (gallery.item, gallery.vector, gallery.image):
            for id_ in (ids[0], 3, -1):
                with pytest.raises(KeyError):
                    ask(id_)
        with pytest.raises(KeyError):
            gallery.remove([ids[1], ids[0]])
        assert len(gallery) == 2, "a removal that fails removes nothing"


def test_images_that_lie_elsewhere_are_not_kept(tmp_path: Path, make_vectors) -> None:
    with opened(tmp_path) as gallery:
        assert gallery.image(gallery.add(make_vectors(1), [Item("a")])[0]) is None


def test_the_files_grow_by_themselves(tmp_path: Path, make_vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAP_SIZE", 2**17)
    with opened(tmp_path) as gallery:
        for number in range(8):
            gallery.add(make_vectors(1), [Item(str(number))], [bytes([number]) * 200_000])
        assert [gallery.image(number) for number in range(8)] == [bytes([number]) * 200_000 for number in range(8)]


def test_images_of_unknown_time_are_in_no_span(tmp_path: Path, make_vectors) -> None:
    with opened(tmp_path) as gallery:
        gallery.add(make_vectors(2), [Item("unknown"), Item("known", time=5.0)])
        query = make_vectors(1)
        assert {match.item.name for match in gallery.search(query, 9, end=5.0)[0]} == {"known"}
        assert len(gallery.search(query, 9)[0]) == 2


def test_names_are_taken_once(tmp_path: Path, make_vectors) -> None:
    with opened(tmp_path) as gallery:
        (first,) = gallery.add(make_vectors(1), [Item("a")])
        with pytest.raises(NameTakenError, match="a: is in the gallery already"):
            gallery.add(make_vectors(2), [Item("b"), Item("a")])
        assert len(gallery) == 1
        gallery.remove([first])
        assert gallery.add(make_vectors(1), [Item("a")]) == [first + 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: (v.astype(np.float64), [Item("a"), Item("b")]), "expected float32"),
        (lambda v: (v[:, :5], [Item("a"), Item("b")]), "expected float32"),
        (lambda v: (v * np.float32(1.01), [Item("a"), Item("b")]), "expected unit length, got 1.01 in row 0"),
        (lambda v: (v * np.float32(np.nan), [Item("a"), Item("b")]), "expected unit length, got nan"),
        (lambda v: (v, [Item("a")]), "2 vectors, 1 items"),
        (lambda v: (v, [Item("a"), Item("b")], [b""]), "1 images"),
        (lambda v: (v, [Item("a"), Item("a")]), "called the same"),
        (lambda v: (v, [Item("a"), Item("")]), "name: must not be empty"),
        (lambda v: (v, [Item("a"), Item("\ud800")]), "name: expected text"),
        (lambda v: (v, [Item("a"), Item("b", 2**63)]), "camid: expected"),
        (lambda v: (v, [Item("a"), Item("b", 0, np.inf)]), "time: expected"),
    ],
)
def test_what_cannot_be_added_says_why(tmp_path: Path, make_vectors, change, message: str) -> None:
    with opened(tmp_path) as gallery:
        with pytest.raises(ValueError, match=message):
            gallery.add(*change(make_vectors(2)))
        assert len(gallery) == 0
        assert gallery.add(make_vectors(0), []) == []


def test_searches_go_on_while_images_come_and_go(tmp_path: Path, make_vectors) -> None:
    vectors = make_vectors(400)
    failures: list[BaseException] = []
    stop = threading.Event()

    def search(gallery: Gallery) -> None:
        try:
            while not stop.is_set():
                for matches in gallery.search(vectors[:4], 5):
                    distances = [match.distance for match in matches]
                    assert len(matches) == 5
                    assert distances == sorted(distances)
                    for match in matches:  # the vector that belongs to the name
                        expected = ((vectors[int(match.item.name) % 400].astype(float) - vectors[:4]) ** 2).sum(1) / 2
                        assert abs(expected - match.distance).min() < 1e-12
        except BaseException as error:
            failures.append(error)

    with opened(tmp_path) as gallery:
        gallery.add(vectors[:50], [Item(str(row)) for row in range(50)])
        threads = [threading.Thread(target=search, args=(gallery,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for row in range(50, 250):
            ids = gallery.add(vectors[row % 400][None], [Item(str(row))])
            gallery.remove([ids[0] - 50])
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_another_process_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LockedError, match="busy with a gallery"):
        opened(tmp_path)
    gallery = opened(tmp_path)
    gallery.close()
    gallery.close()
    opened(tmp_path).close()


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(DataError, match="holds embeddings of the model model, but other is in use"):
        Gallery(tmp_path, DIM, "other")
    with pytest.raises(DataError, match="holds embeddings of size 16, but 8 is in use"):
        Gallery(tmp_path, 8, "model")
    opened(tmp_path).close()
