"""Killed, several writers at once, a full disk, small files: what `add` has returned from is there."""

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

from deploy.gallery import gallery as module
from deploy.gallery.gallery import Gallery, Item, NameTakenError
from deploy.gallery.items import NoSpaceError
from tests.conftest import ROOT
from tests.deploy.gallery.conftest import DIM, check_matches, ids, named, unit
from tests.disks import small_disk
from utils.errors import DataError

ADDING = """
    import sys
    import numpy as np
    from deploy.gallery import gallery as module
    from deploy.gallery.gallery import Gallery, Item, NameTakenError
    from tests.deploy.gallery.conftest import DIM, unit
    module.OPTIMIZE_EVERY = 5
    writer, stop = sys.argv[2], int(sys.argv[3])
    with Gallery(sys.argv[1], DIM, "model") as gallery:
        for number in range(stop):
            batch = [f"new-{writer}-{number}-{place}" for place in range(3)]
            vectors = np.concatenate([unit(np.random.default_rng(list(name.encode())), 1) for name in batch])
            ids = gallery.add(vectors, [Item(name) for name in batch], [name.encode() for name in batch])
            print(" ".join(f"{name}={id}" for name, id in zip(batch, ids)), flush=True)
            gallery.remove(ids[:1])
            print(f"removed={ids[0]}", flush=True)
            try:
                gallery.add(vectors[:1], [Item(f"wanted by all-{number}")])
                print(f"first={number}", flush=True)
            except NameTakenError:
                pass
"""


def adding(place: Path, writer: str, batches: int) -> subprocess.Popen[str]:
    """A process that adds three images at a time, of which it removes the first, and says so when it is done."""
    command = [sys.executable, "-c", textwrap.dedent(ADDING), str(place), writer, str(batches)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check(gallery: Gallery, said: list[str]) -> None:
    """Assert that what was said to be added is there, unless it was removed, and that batches are whole."""
    there = ids(gallery)
    for line in said:
        for name, _, id_ in (word.rpartition("=") for word in line.split() if word.startswith("new")):
            if name.endswith("-0"):
                assert f"removed={id_}" not in said or name not in there
                continue
            assert there[name] == int(id_)
            assert gallery.image(int(id_)) == name.encode()
            assert np.array_equal(gallery.vector(int(id_)), unit(np.random.default_rng(list(name.encode())), 1)[0])
    batches = {name.rpartition("-")[0] for name in there if name.startswith("new")}
    assert all(f"{batch}-{place}" in there for batch in batches for place in (1, 2))


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, rng: np.random.Generator, times: int) -> None:
    said: list[str] = []
    for number in range(times):
        with adding(tmp_path, f"w{number}", 10**6) as process:
            assert process.stdout is not None
            said.append(process.stdout.readline().strip())
            time.sleep(float(rng.uniform(0.0, 1.0)))
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()
        with Gallery(tmp_path, DIM, "model") as gallery:
            check(gallery, said)
    assert len(said) > 3 * times


def test_several_writers_lose_nothing_and_share_no_name(tmp_path: Path, rng: np.random.Generator) -> None:
    with Gallery(tmp_path, DIM, "model") as gallery:
        own = gallery.add(unit(rng, 20), named(20))
        vectors = {id_: gallery.vector(id_) for id_ in own}
        writers = [adding(tmp_path, f"w{number}", 5) for number in range(2)]
        num_seen = {len(gallery)}
        while any(writer.poll() is None for writer in writers):
            # This process reads meanwhile.
            query = unit(rng, 1)
            (matches,) = gallery.search(query, 5, start=1.0)
            check_matches(matches, vectors, query[0], 5)
            num_seen.add(len(gallery))
        said = [line for writer in writers for line in writer.communicate()[0].splitlines()]
        assert [writer.returncode for writer in writers] == [0, 0]
        assert len(num_seen) > 2  # it saw some of the changes while they were made
        check(gallery, said)
        assert len(gallery) == 20 + 2 * 5 * 2 + 5
        firsts = sorted(int(line.partition("=")[2]) for line in said if line.startswith("first"))
        assert firsts == list(range(5))


def test_of_several_writers_one_adds_a_name(tmp_path: Path, rng: np.random.Generator) -> None:
    number, names = 4, range(10)
    vectors, together = unit(rng, number), threading.Barrier(number)

    def add(writer: int) -> list[int]:
        gallery, first = Gallery(tmp_path, DIM, "model"), []
        for name in names:
            together.wait(timeout=60)
            with suppress(NameTakenError):
                gallery.add(vectors[writer : writer + 1], [Item(str(name))])
                first.append(name)
        return first

    with ThreadPoolExecutor(number) as pool:
        firsts = [name for added in pool.map(add, range(number)) for name in added]
    assert sorted(firsts) == [*names]
    assert len(Gallery(tmp_path, DIM, "model")) == len(names)


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, rng: np.random.Generator) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk, Gallery(disk.path / "index", DIM, "model") as gallery:
        added: dict[str, int] = {}

        def fill(first: int) -> None:
            for place in range(first, first + 100):
                added[f"{place}"] = gallery.add(unit(rng, 1), [Item(f"{place}")], [rng.bytes(50_000)])[0]

        disk.fill(leave=1_000_000)
        with pytest.raises(NoSpaceError, match="No space left"):
            fill(0)
        assert ids(gallery) == added
        assert 5 < len(added) < 100
        disk.free()
        gallery.remove([added.pop("0")])
        with pytest.raises(NoSpaceError, match="No space left"):
            fill(100)
        assert ids(gallery) == added
    with pytest.raises(DataError, match="cannot be opened"):
        Gallery(Path("/proc/index"), DIM, "model")


def test_small_files_are_merged_while_images_are_added_one_by_one(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = unit(rng, 3 * module.OPTIMIZE_EVERY)
    with Gallery(tmp_path, DIM, "model") as gallery:
        added = [gallery.add(vectors[row : row + 1], named(1, row))[0] for row in range(len(vectors))]
        with gallery._table("read") as dataset:
            assert len(dataset.get_fragments()) < len(vectors) / 2
        gallery.optimize()
        with gallery._table("read") as dataset:
            assert len(dataset.get_fragments()) == 1
        assert ids(gallery) == {f"{row}.jpg": added[row] for row in range(len(vectors))}
        assert all(np.array_equal(gallery.vector(added[row]), vectors[row]) for row in range(0, len(vectors), 17))
