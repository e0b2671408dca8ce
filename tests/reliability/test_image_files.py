"""Any file is either decoded or refused with its name, without blocking."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.decoding import Resize, decode_bytes
from data.images import MAX_BYTES, decode, find_bad_images, image_exists
from tests.data.encoded import encode
from tests.reliability.rights import closed, open_folder
from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
SEEDS = {
    **{form: encode(RGB, form) for form in FORMATS},
    "JPEG, progressive": encode(RGB, "JPEG", progressive=True),
    "PNG, palette": encode(RGB.quantize(8), "PNG", transparency=bytes(range(8))),
    "PNG, animated": encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "WEBP, animated": encode(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)]),
}


def grow(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder.jpg": (lambda path: path.mkdir(), "not a regular file"),
    "pipe.jpg": (lambda path: os.mkfifo(path), "not a regular file"),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "loop.jpg": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "enormous.jpg": (grow, "268,435,457 bytes; files of at most 268,435,456 are read"),
    "empty.jpg": (lambda path: path.touch(), "an empty file, not an image"),
    "page.jpg": (lambda path: path.write_text("<html>"), "not an image that can be read"),
    "cut.jpg": (lambda path: path.write_bytes(SEEDS["JPEG"][:300]), "damaged, or not an image"),
    "vanished.jpg": (lambda path: None, "cannot be read: No such file or directory"),
    f"{'x' * 300}.jpg": (lambda path: None, "cannot be read: File name too long"),
    "null\0.jpg": (lambda path: None, "cannot be the name of a file: "),
    "half\ud800.jpg": (lambda path: None, "cannot be the name of a file: "),
    "page.lmdb/a.jpg": (lambda path: path.parent.write_text("<html>"), "page.lmdb: "),
}


def test_what_is_no_image_file_is_named_with_the_reason(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(SEEDS["JPEG"])
    paths = []
    for name, (make, _) in SPECIAL.items():
        make(path := tmp_path / name)
        paths += [path, good]
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    bad = find_bad_images(paths)
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open
    assert [item.path for item in bad] == paths[::2]
    for item, (_, reason) in zip(bad, SPECIAL.values(), strict=True):
        assert reason in item.reason
        assert str(item.path) not in item.reason
        with pytest.raises(DataError, match="^" + str(tmp_path)):
            decode(item.path)


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


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["-rf.jpg", "a\nb.png", "Zoë 你好.bmp", "caf\udce9.webp", f"{'x' * 251}.jpg"])
def test_any_name_is_read_and_the_content_tells_the_format(name: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(SEEDS[form])
    link = tmp_path / name
    link.symlink_to("store")
    assert image_exists(link)
    np.testing.assert_array_equal(decode(link), decode_bytes(SEEDS[form]))


EDITS = st.lists(st.tuples(st.sampled_from((0, 1, 4, 12)), st.integers(0, 2000), st.binary(max_size=12)), max_size=6)
"""How many bytes are replaced, where, and by what."""
STARTS = st.sampled_from((b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x20\0\0\0WEBPVP8 "))


@given(name=st.sampled_from(sorted(SEEDS)), edits=EDITS, start=STARTS, rest=st.binary())
def test_changed_and_invented_bytes_are_decoded_or_refused(
    name: str, edits: list[tuple[int, int, bytes]], start: bytes, rest: bytes
) -> None:
    changed = bytearray(SEEDS[name])
    for length, place, value in edits:
        first = place % (len(changed) + 1)
        changed[first : first + length] = value
    for content in (bytes(changed), start + rest):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
            try:
                image = decode_bytes(content, Resize(16, 8, "bilinear"))
            except DataError as error:
                assert str(error)  # noqa: PT017
            else:
                assert (image.shape, image.dtype) == ((16, 8, 3), np.uint8)
