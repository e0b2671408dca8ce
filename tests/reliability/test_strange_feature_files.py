"""Feature files that hold code, or by other programs: read or refused with a message, and never anything else."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import TestFeatures, read_features
from tests.reliability.feature_files import arrays, outcome, part
from utils.errors import DataError


def array(header: bytes, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """An array in numpy's format, with any header."""
    size = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + header + content


def header(shape: str, kind: str = "'<f4'") -> bytes:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def member(**content: np.ndarray) -> dict[str, bytes]:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **content)
    with zipfile.ZipFile(file) as reader:
        return {name: reader.read(name) for name in reader.namelist()}


def packed(compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    """A feature file whose members may be any bytes."""
    members = member(**arrays()) | {f"{name}.npy": content for name, content in changes.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return file.getvalue()


SAFELY = "not a feature file that can be read safely"
NUMBERS = bytes(96)
STRANGE = {
    "more numbers than there are": (packed(query_features=array(header("(512, 4)"), NUMBERS)), SAFELY),
    "a huge array": (packed(query_features=array(header("(1000000000000, 4)"), NUMBERS)), SAFELY),
    "more than 64 bits": (packed(query_features=array(header(f"({2**70}, 4)"), NUMBERS)), SAFELY),
    "fewer numbers than there are": (packed(query_features=array(header("(5, 4)"), NUMBERS)), "query_pids: expected"),
    "a negative shape": (packed(query_features=array(header("(-6, -4)"), NUMBERS)), "query_features: |safely"),
    "a shape of texts": (packed(query_features=array(header("('6', 4)"), NUMBERS)), SAFELY),
    "too many dimensions": (packed(query_features=array(header(str((1,) * 99 + (24,))), NUMBERS)), SAFELY),
    "code": (packed(query_features=array(header("__import__('os').abort()"), NUMBERS)), SAFELY),
    "a deep header": (packed(query_features=array(b"(" * 9000, NUMBERS)), SAFELY),
    "signs without end": (packed(query_features=array(b"-" * 9000 + b"1", NUMBERS)), SAFELY),
    "a long header": (packed(query_features=array(header("(6, 4)") + b" " * 20000, NUMBERS)), SAFELY),
    "an unknown version": (packed(query_features=array(header("(6, 4)"), NUMBERS, b"\7\0")), SAFELY),
    "columns with names": (
        packed(query_features=array(header("(6,)", "[('a', '<f4', (4,))]"), NUMBERS)),
        "query_features: expected numbers of shape",
    ),
    "objects": (packed(query_features=array(header("(6, 4)", "'|O'"), NUMBERS)), f"{SAFELY}.*[Oo]bject arrays"),
    "texts of no letters": (packed(query_paths=member(a=np.zeros(6, "U0"))["a.npy"]), "query_paths: 6 of 6 name no f"),
    "letters that are none": (
        packed(query_paths=array(header("(6,)", "'<U1'"), b"\xff" * 24)),
        "query_paths: expected",
    ),
    "a path that ends early": (packed(query_paths=member(a=np.array(["a\0b"] * 6))["a.npy"]), "query_paths: 6 of 6"),
    "no array": (packed(gallery_pids=b"1 2 3"), SAFELY),
    "nothing in it": (packed(gallery_pids=b""), SAFELY),
    "dates": (packed(query_pids=member(a=np.zeros(6, "M8[s]"))["a.npy"]), "query_pids: expected whole numbers"),
    "truth": (packed(query_pids=member(a=np.zeros(6, bool))["a.npy"]), "query_pids: expected whole numbers"),
    "complex": (packed(query_features=member(a=np.zeros((6, 4), complex))["a.npy"]), "query_features: expected"),
    "NaN": (packed(query_features=member(a=np.full((6, 4), np.nan))["a.npy"]), "query_features: 6 of 6 rows hold NaN"),
    "an empty archive": (b"PK\5\6" + bytes(18), SAFELY),
    "an empty file": (b"", SAFELY),
    "something before it": (b"\0" + packed(), SAFELY),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = STRANGE[name]
    path = tmp_path / "strange.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: .*({message})"):
        read_features(path)


SHAPES = st.sampled_from(
    ["()", "(6,)", "(6, 4)", "(0, 4)", "(6, 0)", "(4, 6)", "(2, 3, 4)", "6", "(6., 4)", "None", "(True, 24)"]
)
KINDS = ["'<f4'", "'>f4'", "'<f8'", "'<i4'", "'<u8'", "'|b1'", "'|O'", "'<U4'", "'|S4'", "'<c8'", "'<M8[D]'", "'|V4'"]
KINDS += ["'<f16'", "'<f2'", "'(2,2)<f4'", "[('a', '<i8')]", "''", "'<f4,<f4'", "0", "'<U0'", "{}"]


@settings(max_examples=300, deadline=None, database=None)
@given(
    name=st.sampled_from(sorted({*arrays(), "query_paths", "gallery_paths"})),
    shape=SHAPES,
    kind=st.sampled_from(KINDS),
    content=st.sampled_from([b"", bytes(24), bytes(48), NUMBERS, b"\xff" * 96, bytes(192)]),
)
def test_any_array_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, shape: str, kind: str, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(packed(zipfile.ZIP_STORED, **{name: array(header(shape, kind), content)}))
    outcome(path, TestFeatures(part(6), part(9)))
