"""A gallery on disk: opened again, grown, compacted, damaged, killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery import records
from deploy.gallery.gallery import Gallery
from tests.conftest import ROOT
from tests.deploy.gallery.conftest import DIM, ids, named, unit
from utils.errors import DataError
from utils.locks import LockedError


def test_what_was_added_is_there_after_reopening(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 5)
    with Gallery(tmp_path, DIM, "model") as gallery:
        added = gallery.add(vectors[:3], named(3), [b"a", b"b", b"c"])
        gallery.remove(added[1:2])
        assert gallery.add(vectors[3:], named(2, first=3)) == [3, 4]
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert ids(gallery) == {"0.jpg": 0, "2.jpg": 2, "3.jpg": 3, "4.jpg": 4}
        assert len(gallery) == 4
        assert gallery.cameras() == [1, 2, 3]
        assert (gallery.image(0), gallery.image(3)) == (b"a", None)
        assert np.array_equal(gallery.vector(4), vectors[4])
        assert gallery.item(2) == named(3)[2]
        assert [match.id for match in gallery.search(vectors[1:2], 9)[0] if match.id == 1] == []
        for ask in (gallery.item, gallery.vector, gallery.image, lambda id_: gallery.remove([id_])):
            with pytest.raises(KeyError):
                ask(1)


def test_compaction_drops_removed_rows_and_no_id_is_reused(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 10)
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(vectors, named(10))
        gallery.remove(range(7))
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert [path.name for path in tmp_path.glob("*.f32")] == ["vectors-2.f32"]
        assert all(np.array_equal(gallery.vector(id_), vectors[id_]) for id_ in (7, 8, 9))
        assert gallery.add(vectors[:1], named(1)) == [10]
        assert [match.id for match in gallery.search(vectors[:1], 1)[0]] == [10]


def test_an_index_belongs_to_one_model_and_one_process(tmp_path: Path) -> None:
    with Gallery(tmp_path, DIM, "model"), pytest.raises(LockedError, match="a gallery"):
        Gallery(tmp_path, DIM, "model")
    with pytest.raises(DataError, match="the model model, but other"):
        Gallery(tmp_path, DIM, "other")
    with pytest.raises(DataError, match="embeddings of size 8, but 9"):
        Gallery(tmp_path, DIM + 1, "model")


def test_the_records_grow(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAP_SIZE", 2**17)
    images = [bytes([number]) * 2**16 for number in range(8)]
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 8), named(8), images)
        assert [gallery.image(id_) for id_ in range(8)] == images


@pytest.mark.parametrize("file", ["items.lmdb", "vectors-1.f32"])
def test_damage_is_refused(tmp_path: Path, rng: np.random.Generator, file: str) -> None:
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 50), named(50))
    path = tmp_path / file
    content = path.read_bytes()
    for number in rng.integers(0, 50, 6).tolist():
        # Any bit of an embedding, or of a name in its record.
        place = number * DIM * 4 + rng.integers(DIM * 4)
        if file == "items.lmdb":
            place = content.rindex(f"{number}.jpg".encode()) + rng.integers(len(f"{number}.jpg"))
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"damaged: .* does not match its checksum"):
            Gallery(tmp_path, DIM, "model")
    path.write_bytes(content[: 4096 if file == "items.lmdb" else 49 * DIM * 4])
    with pytest.raises(DataError, match=r"truncated|damaged"):
        Gallery(tmp_path, DIM, "model")
    path.write_bytes(content)
    with Gallery(tmp_path, DIM, "model") as gallery:
        assert list(gallery.items().values()) == named(50)


def test_embeddings_without_records_are_not_overwritten(tmp_path: Path, rng: np.random.Generator) -> None:
    with Gallery(tmp_path, DIM, "model") as gallery:
        gallery.add(unit(rng, 5), named(5))
    content = (tmp_path / "vectors-1.f32").read_bytes()
    (tmp_path / "items.lmdb").unlink()
    with pytest.raises(DataError, match=r"items\.lmdb: is missing, while vectors-1\.f32 is there"):
        Gallery(tmp_path, DIM, "model")
    assert (tmp_path / "vectors-1.f32").read_bytes() == content


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
def test_a_kill_loses_at_most_the_change_in_progress(tmp_path: Path, rng: np.random.Generator, times: int) -> None:
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
