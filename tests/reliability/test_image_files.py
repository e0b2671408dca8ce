"""Image files as strangers hand them over: whatever they are, they are decoded or named, and never waited for."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.decoding import MAX_BYTES, decode_bytes
from data.images import decode, find_bad_images, image_exists, read_bytes
from data.lmdb.reading import read_lmdb
from data.lmdb.writing import write_lmdb
from data.samples import Dataset, Sample
from tests.reliability.image_bytes import FORMATS, decode_or_refuse, small_images
from tests.reliability.rights import closed, open_folder
from utils.errors import DataError

SEEDS = small_images()
Special = Callable[[Path, Path], object]


def bind_socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's name may have 107 bytes, and a test's folder takes nearly as many.
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def grow(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk


SPECIAL: dict[str, tuple[Special, str]] = {
    "folder.jpg": (lambda path, _: path.mkdir(), "cannot be read: Is a directory"),
    "pipe.jpg": (lambda path, _: os.mkfifo(path), "a pipe or a device, not a regular file"),
    "socket.jpg": (bind_socket, "cannot be read: No such device or address"),
    "device.jpg": (lambda path, _: path.symlink_to("/dev/zero"), "a pipe or a device, not a regular file"),
    "kernel.jpg": (lambda path, _: path.symlink_to("/proc/self/mounts"), "an empty file, not an image"),
    "dangling.jpg": (lambda path, _: path.symlink_to("nowhere.jpg"), "cannot be read: No such file or directory"),
    "loop.jpg": (lambda path, _: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "enormous.jpg": (grow, "268,435,457 bytes; files of at most 268,435,456 are read"),
    "empty.jpg": (lambda path, _: path.touch(), "an empty file, not an image"),
    "page.jpg": (lambda path, _: path.write_text("<html>"), "not an image that can be read"),
    "cut.jpg": (lambda path, good: path.write_bytes(good.read_bytes()[:300]), "damaged, or not an image"),
    "vanished.jpg": (lambda path, _: None, "cannot be read: No such file or directory"),
    f"{'x' * 300}.jpg": (lambda path, _: None, "cannot be read: File name too long"),
    "null\0.jpg": (lambda path, _: None, "cannot be the name of a file: "),
    "half\ud800.jpg": (lambda path, _: None, "cannot be the name of a file: "),
    "page.lmdb/a.jpg": (lambda path, _: path.parent.write_text("<html>"), "page.lmdb: "),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jpg"
    path.write_bytes(SEEDS["JPEG"])
    return path


@pytest.mark.parametrize("name", SPECIAL, ids=lambda name: ascii(name)[:20])
def test_what_is_no_image_file_is_refused_at_once(name: str, good: Path) -> None:
    make, reason = SPECIAL[name]
    path = good.parent / name
    make(path, good)
    with pytest.raises(DataError) as caught:
        decode(path)
    assert str(caught.value).startswith(str(path.parent))
    assert reason in str(caught.value)


def test_a_large_file_is_refused_before_it_is_read(good: Path) -> None:
    grow(good, good)
    with pytest.raises(DataError, match=f"^{good}: 268,435,457 bytes"):
        read_bytes(good)


def test_all_of_them_are_named_in_order(good: Path) -> None:
    paths = []
    for name, (make, _) in SPECIAL.items():
        make(path := good.parent / name, good)
        paths += [path, good]
    bad = find_bad_images(paths)
    assert [item.path for item in bad] == paths[::2]
    for item, (_, reason) in zip(bad, SPECIAL.values(), strict=True):
        assert reason in item.reason
        assert str(item.path) not in item.reason


def test_no_file_stays_open(good: Path) -> None:
    for name, (make, _) in SPECIAL.items():
        make(good.parent / name, good)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        for name in SPECIAL:
            with pytest.raises(DataError):
                decode(good.parent / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_pipe_with_a_writer_is_not_read_either(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(SEEDS["JPEG"],), daemon=True)
    ends = os.open(pipe, os.O_RDWR)  # so that the thread never waits
    writer.start()
    writer.join()
    with pytest.raises(DataError, match="a pipe or a device, not a regular file"):
        decode(pipe)
    os.close(ends)


@pytest.mark.parametrize("name", ["a.jpg", "."])
def test_what_may_not_be_read_is_named(name: str) -> None:
    with open_folder() as folder:
        path = folder / "a.jpg"
        path.write_bytes(SEEDS["JPEG"])
        with closed(folder / name):
            assert image_exists(path) == (name != ".")
            with pytest.raises(DataError, match=f"^{path}: cannot be read: Permission denied$"):
                decode(path)
        assert decode(path).shape == (10, 12, 3)


@pytest.mark.parametrize(
    "name", ["-rf.jpg", "a\nb.jpg", "Zoë 你好.jpg", "caf\udce9.jpg", f"{'x' * 251}.jpg", "%s{0}.jpg"]
)
def test_any_name_of_a_file_is_read(name: str, good: Path) -> None:
    path = good.rename(good.with_name(name))
    assert image_exists(path)
    assert decode(path).shape == (10, 12, 3)
    assert find_bad_images([path]) == []


def test_links_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    # A folder of links to one store of images is common.
    for folder in ("store", "set"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store" / "1").write_bytes(SEEDS["PNG"])
    link = tmp_path / "set" / "a.jpg"
    link.symlink_to("../store/1")
    np.testing.assert_array_equal(decode(link), decode_bytes(SEEDS["PNG"]))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_content_tells_the_format(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(SEEDS[form])
    np.testing.assert_array_equal(decode(path), decode_bytes(SEEDS[form]))


def test_an_lmdb_keeps_to_the_same_rules(good: Path) -> None:
    contents = {
        **SEEDS,
        "empty": b"",
        "page": b"<html>",
        "cut": SEEDS["PNG"][:60],
        "caf\udce9": SEEDS["WEBP"],
    }
    paths = [good.with_name(f"{name}.jpg") for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    packed = good.parent / "set.lmdb"
    write_lmdb(packed, good.parent, Dataset([Sample(path, 1, 1) for path in paths], [], [], []), "folders")
    inside = [sample.path for sample in read_lmdb(packed).train]
    assert [(bad.path.name, bad.reason) for bad in find_bad_images(inside)] == [
        (bad.path.name, bad.reason) for bad in find_bad_images(paths)
    ]
    assert len(find_bad_images(inside)) == 3
    for outer, inner in zip(paths, inside, strict=True):
        if outer.stem not in ("empty", "page", "cut"):
            np.testing.assert_array_equal(decode(inner), decode(outer))


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 2000), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.integers(0, 2000), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("delete"), st.integers(0, 2000), st.binary(min_size=1, max_size=12)),
    ),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    changed = bytearray(content)
    for how, place, value in edits:
        start = place % (len(changed) + 1)
        length = {"set": len(value), "insert": 0, "delete": len(value)}[how]
        changed[start : start + length] = b"" if how == "delete" else value
    return bytes(changed)


@given(name=st.sampled_from(sorted(SEEDS)), edits=EDITS)
@settings(max_examples=300, deadline=None)
def test_changed_bytes_are_decoded_or_refused(name: str, edits: list[tuple[str, int, bytes]]) -> None:
    decode_or_refuse(mutate(SEEDS[name], edits))


@pytest.mark.slow
@given(name=st.sampled_from(sorted(SEEDS)), edits=EDITS)
@settings(max_examples=10_000, deadline=None)
def test_many_changed_bytes_are_decoded_or_refused(name: str, edits: list[tuple[str, int, bytes]]) -> None:
    decode_or_refuse(mutate(SEEDS[name], edits))


STARTS = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x20\0\0\0WEBPVP8 ")


@given(start=st.sampled_from(STARTS), rest=st.binary())
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_kind_are_decoded_or_refused(start: bytes, rest: bytes) -> None:
    decode_or_refuse(start + rest)


def run_fuzzer(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("fuzz_images.py")
    command = [sys.executable, str(script), f"--corpus={folder / 'corpus'}", *options]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_fuzzer_tells_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text("raise ImportError")
    ended = run_fuzzer(tmp_path, PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (1, "fuzz_images.py: atheris is not installed; pip install atheris\n")


@pytest.mark.slow
def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed; pip install atheris")
    ended = run_fuzzer(tmp_path, "-runs=50000", "-seed=1")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Done 50000 runs" in ended.stderr
    # Crashes, and also what took too long, are kept beside the corpus.
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
