"""Packing a data set ends with the whole file or with none, and says why."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.dataset import read_dataset
from data.lmdb import writing
from data.lmdb.reading import read_lmdb
from data.lmdb.writing import pack_dataset, write_lmdb
from data.options import DataOptions
from data.samples import Dataset, Sample
from tests.conftest import ROOT
from utils.errors import DataError, ParamsError


@pytest.fixture
def options(tmp_path: Path, draw_image: Callable[..., Path]) -> DataOptions:
    """A data set of 300 images: more than go into one transaction."""
    for number in range(300):
        draw_image(tmp_path / "set" / f"bounding_box_train/{number:04d}_c1.png", width=4, height=4, seed=number)
    return DataOptions(batches_dir=str(tmp_path / "set"))


def left(tmp_path: Path) -> list[str]:
    """What there is beside the data set."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "set")


def test_the_file_is_all_there_is_and_the_same_each_time(options: DataOptions, tmp_path: Path) -> None:
    for name in ("one.lmdb", "two.lmdb"):
        assert len(pack_dataset(tmp_path / name, options).train) == 300
    assert left(tmp_path) == ["one.lmdb", "two.lmdb"]
    assert (tmp_path / "one.lmdb").read_bytes() == (tmp_path / "two.lmdb").read_bytes()
    # Reading it leaves nothing behind either, and needs no right to write.
    (tmp_path / "one.lmdb").chmod(0o400)
    assert len(read_lmdb(tmp_path / "one.lmdb").train) == 300
    assert left(tmp_path) == ["one.lmdb", "two.lmdb"]


def test_bad_images_are_named_or_left_out(options: DataOptions, tmp_path: Path) -> None:
    (tmp_path / "set" / "bounding_box_train" / "0007_c1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 unreadable images(.|\n)*0007_c1\.png"):
        pack_dataset(tmp_path / "out.lmdb", options)
    assert left(tmp_path) == []
    pack_dataset(tmp_path / "out.lmdb", options.model_copy(update={"bad_images": "skip"}))
    assert [sample.pid for sample in read_lmdb(tmp_path / "out.lmdb").train] == [*range(7), *range(8, 300)]


def test_nothing_is_overwritten_and_the_place_is_checked_before_the_images(
    options: DataOptions, tmp_path: Path
) -> None:
    (tmp_path / "set" / "bounding_box_train" / "0007_c1.png").write_bytes(b"")
    (tmp_path / "file.lmdb").write_text("precious")
    (tmp_path / "folder.lmdb").mkdir()
    (tmp_path / "link.lmdb").symlink_to("nowhere")
    for name, problem in (
        ("file.lmdb", "exists already"),
        ("folder.lmdb", "exists already"),
        ("link.lmdb", "exists already"),
        ("missing/out.lmdb", "there is no folder .*/missing; make it first"),
        ("out.mdb", r"must end in \.lmdb"),
    ):
        with pytest.raises(ParamsError, match=rf"^--out .*/{name}: .*{problem}"):
            pack_dataset(tmp_path / name, options)
    assert (tmp_path / "file.lmdb").read_text() == "precious"
    assert left(tmp_path) == ["file.lmdb", "folder.lmdb", "link.lmdb"]


def test_what_is_packed_is_not_packed_again(options: DataOptions, tmp_path: Path) -> None:
    pack_dataset(tmp_path / "out.lmdb", options)
    with pytest.raises(ParamsError, match=r"batches_dir: .*/out\.lmdb is packed already; name the folder"):
        pack_dataset(tmp_path / "again.lmdb", DataOptions(batches_dir=str(tmp_path / "out.lmdb")))


def test_an_interrupt_leaves_nothing(options: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def read_bytes(path: Path) -> bytes:
        seen.append(path)
        if len(seen) == 280:
            raise KeyboardInterrupt
        return path.read_bytes()

    monkeypatch.setattr(writing, "read_bytes", read_bytes)
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(tmp_path / "out.lmdb", options)
    assert left(tmp_path) == []


def test_a_killed_packing_leaves_nothing_to_the_next(
    options: DataOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from data.lmdb import writing; from data.options import DataOptions\n"
        "writing._write_samples = lambda *arguments: os.kill(os.getpid(), 9)\n"  # amid the file
        "writing.pack_dataset(Path(sys.argv[2]), DataOptions(batches_dir=sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, options.batches_dir, str(tmp_path / "out.lmdb")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    lock, owner, unfinished = left(tmp_path)
    assert lock == ".out.lmdb.lock"
    assert unfinished.startswith(".out.lmdb.unfinished-")
    pack_dataset(tmp_path / "another.lmdb", options)
    assert left(tmp_path) == [lock, owner, unfinished, "another.lmdb"]  # of another target
    with caplog.at_level(logging.INFO):
        pack_dataset(tmp_path / "out.lmdb", options)
    assert "which ended without cleaning up" in caplog.text
    assert left(tmp_path) == ["another.lmdb", "out.lmdb"]
    assert (tmp_path / "another.lmdb").read_bytes() == (tmp_path / "out.lmdb").read_bytes()


def pack_meanwhile(monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], out: Path) -> None:
    """Stands in for the lock: what another process made while this one waited for it."""

    @contextmanager
    def locked(path: Path, purpose: str, *, wait: bool) -> Iterator[None]:
        monkeypatch.undo()
        make(out)
        yield

    monkeypatch.setattr(writing, "locked", locked)


def test_the_same_data_set_packed_meanwhile_is_taken(
    options: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.lmdb"
    pack_meanwhile(monkeypatch, lambda out: pack_dataset(out, options), out)
    with caplog.at_level(logging.INFO):
        assert len(pack_dataset(out, options).train) == 300
    assert f"{out}: was packed meanwhile by another process" in caplog.text
    assert left(tmp_path) == ["out.lmdb"]


@pytest.mark.parametrize("difference", ["sample", "layout", "program", "folder"])
def test_anything_else_made_meanwhile_is_refused_and_left_alone(
    options: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: str
) -> None:
    def make(out: Path) -> None:
        dataset = read_dataset(options)
        if difference == "program":
            out.write_text("precious")
        elif difference == "folder":
            out.mkdir()
        else:
            if difference == "sample":
                dataset.train[-1] = dataset.train[-1]._replace(camid=2)
            write_lmdb(out, tmp_path / "set", dataset, "folders" if difference == "layout" else "market")

    out = tmp_path / "out.lmdb"
    pack_meanwhile(monkeypatch, make, out)
    with pytest.raises(ParamsError, match=r"^--out .*/out\.lmdb: exists already; remove it or name another file"):
        pack_dataset(out, options)
    assert left(tmp_path) == ["out.lmdb"]


def test_an_image_that_vanishes_is_named(options: DataOptions, tmp_path: Path) -> None:
    gone = tmp_path / "set" / "gone.jpg"
    dataset = Dataset([Sample(gone, 1, 1)], [], [], [])
    with pytest.raises(DataError, match=rf"^{gone}: cannot be read: No such file or directory"):
        write_lmdb(tmp_path / "out.lmdb", tmp_path / "set", dataset, "folders")
    gone.symlink_to(tmp_path)  # there, but no file
    with pytest.raises(DataError, match=rf"^{gone}: not a regular file"):
        write_lmdb(tmp_path / "out.lmdb", tmp_path / "set", dataset, "folders")
    assert left(tmp_path) == []


def test_a_full_disk_is_told(options: DataOptions, tmp_path: Path) -> None:
    """A limit to the size of files stops a write as a full disk does, wherever the tests run."""
    resource = pytest.importorskip("resource", reason="limits as POSIX has them")
    assert resource.RLIMIT_FSIZE is not None
    script = (
        "import resource, signal, sys; from pathlib import Path; from data.lmdb.writing import pack_dataset; "
        "from data.options import DataOptions; from utils.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in range(0, 100_000, 24_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try: pack_dataset(Path(sys.argv[2]), DataOptions(batches_dir=sys.argv[1]))\n"
        "    except DataError as error: print(error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, options.batches_dir, str(tmp_path / "out.lmdb")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    messages = process.stdout.splitlines()
    assert process.returncode == 0, process.stderr
    assert len(messages) == 5
    assert all(text.startswith(f"{tmp_path}/out.lmdb: cannot be written: ") for text in messages)
    assert left(tmp_path) == []
