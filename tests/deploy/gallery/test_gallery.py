import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.gallery import records
from deploy.gallery.exact import search_exactly
from deploy.gallery.gallery import Gallery, Item, NameTakenError
from tests.conftest import ROOT
from tests.deploy.gallery.conftest import DIM, named, unit
from utils.errors import DataError
from utils.locks import LockedError


def slow(vectors: np.ndarray, rows: list[int], query: np.ndarray, k: int) -> list[tuple[float, int]]:
    """The k nearest of some rows from the definition, one after the other."""
    found = []
    for row in rows:
        cosine = sum(float(a) * float(b) for a, b in zip(vectors[row], query, strict=True))
        found.append((1 - cosine, row))
    return sorted(found)[:k]


@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 40),
    k=st.integers(1, 45),
    cameras=st.lists(st.integers(1, 4), max_size=2),
    bounds=st.tuples(st.integers(95, 145), st.integers(95, 145)),
    dead=st.integers(0, 10),
)
def test_a_search_finds_what_comparing_one_by_one_finds(
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
    wanted = [
        row
        for row, item in enumerate(items)
        if row not in removed and (not cameras or item.camid in cameras) and bounds[0] <= item.time <= bounds[1]
    ]
    for query, matches in zip(queries, found, strict=True):
        expected = slow(vectors, wanted, query, k)
        assert [match.distance for match in matches] == pytest.approx([one[0] for one in expected], abs=2e-6)
        assert all(match.item == items[match.id] for match in matches)
        # Equal vectors are equally far, and then the lower id comes first.
        groups = {match.id: slow(vectors, [match.id], query, 1)[0][0] for match in matches}
        assert [match.id for match in matches] == sorted(groups, key=lambda id_: (round(groups[id_], 5), id_))
        assert len(matches) == len(expected)


@pytest.mark.parametrize("share", [0.01, 0.5, None])
def test_many_rows_are_searched_in_blocks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, share: float | None
) -> None:
    monkeypatch.setattr("deploy.gallery.exact.SCORES", 1000)
    vectors, queries = unit(rng, 3000), unit(rng, 5)
    wanted = None if share is None else rng.random(3000) < share
    distances = 1 - queries.astype(np.float64) @ vectors.astype(np.float64).T
    if wanted is not None:
        distances[:, ~wanted] = np.inf
    for found, row in zip(search_exactly(vectors, wanted, queries, 20), distances, strict=True):
        assert found.rows.tolist() == np.argsort(row, kind="stable")[:20].tolist()
        assert found.distances == pytest.approx(np.sort(row)[:20], abs=1e-6)


def test_what_was_added_is_there_after_reopening(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 5)
    with Gallery(tmp_path, DIM, "model") as gallery:
        ids = gallery.add(vectors[:3], named(3), [b"a", b"b", b"c"])
        gallery.remove(ids[1:2])
        assert gallery.add(vectors[3:], named(2, first=3)) == [3, 4]
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert gallery.ids() == {"0.jpg": 0, "2.jpg": 2, "3.jpg": 3, "4.jpg": 4}
        assert len(gallery) == 4
        assert gallery.cameras() == [1, 2, 3]
        assert (gallery.image(0), gallery.image(3)) == (b"a", None)
        assert np.array_equal(gallery.vector(4), vectors[4])
        assert gallery.item(2) == named(3)[2]
        assert [match.id for match in gallery.search(vectors[1:2], 9)[0] if match.id == 1] == []
        for ask in (gallery.item, gallery.vector, gallery.image, lambda id_: gallery.remove([id_])):
            with pytest.raises(KeyError):
                ask(1)


def test_rows_of_removed_images_are_given_back_but_their_ids_are_not(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 10)
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(vectors, named(10))
        gallery.remove(range(7))
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert [path.name for path in tmp_path.glob("*.f32")] == ["vectors-2.f32"]
        assert all(np.array_equal(gallery.vector(id_), vectors[id_]) for id_ in (7, 8, 9))
        assert gallery.add(vectors[:1], named(1)) == [10]
        assert [match.id for match in gallery.search(vectors[:1], 1)[0]] == [10]


def test_a_name_is_taken_once(gallery: Gallery, rng: np.random.Generator) -> None:
    gallery.add(unit(rng, 2), named(2))
    with pytest.raises(NameTakenError, match=r"1\.jpg: is in the gallery already"):
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
        (np.eye(DIM, dtype=np.float32)[:2], named(1) * 2, (), "called the same"),
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


def test_an_index_belongs_to_one_model_and_one_process(tmp_path: Path) -> None:
    with Gallery(tmp_path, DIM, "model"), pytest.raises(LockedError, match="a gallery"):
        Gallery(tmp_path, DIM, "model")
    with pytest.raises(DataError, match="embeddings of the model model, but other is in use"):
        Gallery(tmp_path, DIM, "other")
    with pytest.raises(DataError, match="embeddings of size 8, but 9"):
        Gallery(tmp_path, DIM + 1, "model")


def test_the_records_grow_as_they_need(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAP_SIZE", 2**17)
    images = [bytes([number]) * 2**16 for number in range(8)]
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 8), named(8), images)
        assert [gallery.image(id_) for id_ in range(8)] == images


def test_damage_is_refused_and_never_misread(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 50)
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(vectors, named(50))
    files = {path: path.read_bytes() for path in (tmp_path / "items.lmdb", tmp_path / "vectors-1.f32")}
    used = {tmp_path / "items.lmdb": 2**15, tmp_path / "vectors-1.f32": vectors.nbytes}
    refused = 0
    for path, content in files.items():
        for place in rng.integers(0, used[path], 12).tolist():
            path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
            with suppress(DataError), Gallery(tmp_path, DIM, "model") as gallery:
                # Not every byte of the records' file means something.
                assert all(np.array_equal(gallery.vector(id_), vectors[id_]) for id_ in range(50))
                assert gallery.ids() == {item.name: id_ for id_, item in enumerate(named(50))}
                continue
            refused += 1
        path.write_bytes(content)
    assert refused >= 12  # every one of the vectors'
    (tmp_path / "vectors-1.f32").write_bytes(vectors[:49].tobytes())
    with pytest.raises(DataError, match="cut short"):
        Gallery(tmp_path, DIM, "model")


ADDING = """
    import sys
    from pathlib import Path
    import numpy as np
    from deploy.gallery.gallery import Gallery
    from tests.deploy.gallery.conftest import DIM, named, unit
    with Gallery(Path(sys.argv[1]), DIM, "model") as gallery:
        print("begun", flush=True)
        while True:
            first = gallery._records.state.next_id
            vectors = np.concatenate([unit(np.random.default_rng(first + place), 1) for place in range(3)])
            gallery.add(vectors, named(3, first), [b"%d" % (first + place) for place in range(3)])
            gallery.remove([first])
"""


@pytest.mark.parametrize("times", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_loses_at_most_what_was_under_way(tmp_path: Path, rng: np.random.Generator, times: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(ADDING), str(tmp_path)]
    known = 0
    for _ in range(times):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ}) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(float(rng.uniform(0.0, 0.2)))
            process.send_signal(signal.SIGKILL)
        with Gallery(tmp_path, DIM, "model") as gallery:
            items = gallery.items()
            assert len(items) >= known
            known = len(items)
            for id_, item in items.items():
                assert item == named(1, id_)[0]
                assert gallery.image(id_) == b"%d" % id_
                assert np.array_equal(gallery.vector(id_), unit(np.random.default_rng(id_), 1)[0])
            # The first of three may have been removed; all others are there.
            given = range(gallery._records.state.next_id)
            assert [id_ for id_ in given if id_ % 3] == [id_ for id_ in items if id_ % 3]
    assert known > 0


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
