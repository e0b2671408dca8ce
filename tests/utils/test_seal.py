"""The seal of an archive: what is written with it, and what is told by it."""

import io
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.seal import Seal, SealingFile, read_seal


def archive() -> bytes:
    """A zip archive of two entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("a.txt", "some text")
        writer.writestr("b.bin", bytes(range(100)))
    return file.getvalue()


def sealed(content: bytes) -> bytes:
    file = io.BytesIO()
    sealing = SealingFile(file)
    sealing.write(content)
    sealing.seal()
    return file.getvalue()


def test_a_sealed_archive_is_an_archive_still() -> None:
    content = sealed(archive())
    assert read_seal(io.BytesIO(content)) is Seal.WHOLE
    assert read_seal(io.BytesIO(archive())) is Seal.NONE
    with zipfile.ZipFile(io.BytesIO(content)) as reader:
        assert reader.testzip() is None
        assert reader.read("a.txt") == b"some text"
        assert reader.comment.startswith(b"sha256:")
        assert len(reader.comment) == len("sha256:") + 64


@settings(max_examples=50, deadline=None, database=None)
@given(sizes=st.lists(st.integers(0, 60), max_size=30))
def test_the_pieces_it_is_written_in_do_not_matter(sizes: list[int]) -> None:
    file, rest = io.BytesIO(), archive()
    sealing = SealingFile(file)
    for size in sizes:
        assert sealing.write(memoryview(rest)[:size]) == min(size, len(rest))
        rest = rest[size:]
    sealing.write(rest)
    sealing.seal()
    assert file.getvalue() == sealed(archive())


def test_every_changed_bit_breaks_the_seal() -> None:
    content = sealed(archive())
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            assert read_seal(io.BytesIO(changed)) in (Seal.BROKEN, Seal.NO_END), (place, bit)


def test_more_or_less_of_a_file_leaves_no_seal() -> None:
    content = sealed(archive())
    for length in range(len(content)):
        assert read_seal(io.BytesIO(content[:length])) is Seal.NO_END
    for more in (b"\0", b"PK\5\6", content[-22:]):
        assert read_seal(io.BytesIO(content + more)) is Seal.NO_END
    assert read_seal(io.BytesIO(content + content)) is Seal.BROKEN


def test_archives_with_a_comment_of_their_own_are_not_taken_for_whole() -> None:
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, "a") as writer:
        writer.comment = b"sha256:" + b"0" * 64
    assert read_seal(file) is Seal.BROKEN


@pytest.mark.parametrize("content", [b"", b"no archive", sealed(archive())])
def test_only_an_archive_without_a_comment_can_be_sealed(content: bytes) -> None:
    with pytest.raises(RuntimeError, match="no place for a seal"):
        sealed(content)


def test_large_content_is_read_in_pieces() -> None:
    file = io.BytesIO()
    sealing = SealingFile(file)
    torch.save(torch.zeros(2_000_003, dtype=torch.uint8), sealing)  # pyright: ignore[reportArgumentType]
    sealing.seal()
    assert read_seal(file) is Seal.WHOLE
    file.seek(1_500_000)
    file.write(b"\1")
    assert read_seal(file) is Seal.BROKEN
