"""Packing a data set ends with the whole file or with none, and says why."""

import logging
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


def run_script(code: str, options: DataOptions, out: Path) -> subprocess.CompletedProcess[str]:
    imports = "import os, signal, sys; from pathlib import Path; from data.lmdb import writing\n"
    imports += "from data.options import DataOptions; from utils.errors import DataError\n"
    imports += "options, out = DataOptions(batches_dir=sys.argv[1]), Path(sys.argv[2])\n"
    command = [sys.executable, "-c", imports + code, options.batches_dir, str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_the_file_is_all_there_is_and_the_same_each_time(options: DataOptions, tmp_path: Path) -> None:
    for name in ("one.lmdb", "two.lmdb"):
        assert len(pack_dataset(tmp_path / name, options).train) == 300
    assert (tmp_path / "one.lmdb").read_bytes() == (tmp_path / "two.lmdb").read_bytes()
    # Reading it leaves nothing behind either, and needs no right to write.
    (tmp_path / "one.lmdb").chmod(0o400)
    assert len(read_lmdb(tmp_path / "one.lmdb").train) == 300
    assert left(tmp_path) == ["one.lmdb", "two.lmdb"]
    with pytest.raises(ParamsError, match=r"batches_dir: .*/one\.lmdb is packed already; name the folder"):
        pack_dataset(tmp_path / "again.lmdb", DataOptions(batches_dir=str(tmp_path / "one.lmdb")))


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


def test_an_image_that_vanishes_is_named_and_nothing_is_left(options: DataOptions, tmp_path: Path) -> None:
    gone = tmp_path / "set" / "gone.jpg"
    for problem in ("No such file or directory", "not a regular file"):
        with pytest.raises(DataError, match=rf"^{gone}: .*{problem}"):
            write_lmdb(tmp_path / "out.lmdb", tmp_path / "set", Dataset([Sample(gone, 1, 1)], [], [], []), "folders")
        assert left(tmp_path) == []
        gone.mkdir(exist_ok=True)


def test_a_killed_packing_leaves_nothing_to_the_next(options: DataOptions, tmp_path: Path) -> None:
    killed = "writing._write_samples = lambda *arguments: os.kill(os.getpid(), 9)\nwriting.pack_dataset(out, options)"
    assert run_script(killed, options, tmp_path / "out.lmdb").returncode == -signal.SIGKILL
    unfinished = [name for name in left(tmp_path) if name.startswith(".out.lmdb.unfinished-")]
    assert len(unfinished) == 1
    pack_dataset(tmp_path / "another.lmdb", options)
    assert unfinished[0] in left(tmp_path)  # of another target
    pack_dataset(tmp_path / "out.lmdb", options)
    assert left(tmp_path) == ["another.lmdb", "out.lmdb"]
    assert (tmp_path / "another.lmdb").read_bytes() == (tmp_path / "out.lmdb").read_bytes()


def test_a_full_disk_is_told(options: DataOptions, tmp_path: Path) -> None:
    """A limit to the size of files stops a write as a full disk does, wherever the tests run."""
    pytest.importorskip("resource", reason="limits as POSIX has them")
    code = (
        "import resource\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in range(0, 100_000, 24_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try: writing.pack_dataset(out, options)\n"
        "    except DataError as error: print(error)\n"
    )
    process = run_script(code, options, tmp_path / "out.lmdb")
    assert process.returncode == 0, process.stderr
    messages = process.stdout.splitlines()
    assert len(messages) == 5
    assert all("cannot be written: " in text for text in messages)
    assert left(tmp_path) == []


@pytest.mark.parametrize("difference", [None, "sample", "layout", "program", "folder"])
def test_only_the_same_data_set_packed_meanwhile_is_taken(
    options: DataOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    difference: str | None,
) -> None:
    out = tmp_path / "out.lmdb"

    @contextmanager
    def locked(path: Path, purpose: str, *, wait: bool) -> Iterator[None]:
        """Stands in for the lock: what another process made while this one waited for it."""
        dataset = read_dataset(options)
        if difference == "program":
            out.write_text("precious")
        elif difference == "folder":
            out.mkdir()
        else:
            if difference == "sample":
                dataset.train[-1] = dataset.train[-1]._replace(camid=2)
            write_lmdb(out, tmp_path / "set", dataset, "folders" if difference == "layout" else "market")
        yield

    monkeypatch.setattr(writing, "locked", locked)
    if difference is None:
        with caplog.at_level(logging.INFO):
            assert len(pack_dataset(out, options).train) == 300
        assert f"{out}: was packed meanwhile by another process" in caplog.text
    else:
        with pytest.raises(ParamsError, match=r"^--out .*/out\.lmdb: exists already; remove it or name another file"):
            pack_dataset(out, options)
    assert left(tmp_path) == ["out.lmdb"]
