"""Checkpoints and feature files that hold code or were made by other programs are read or refused with a message."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.features import read_features
from tests.reliability.files import arrays
from utils.checkpoint import load_tensors
from utils.errors import DataError


def archive_of(pickled: bytes, **records: bytes) -> bytes:
    """An archive as torch.save writes it, of any content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            writer.writestr(f"archive/{name}", content)
        for name, content in records.items():
            writer.writestr(f"archive/data/{name[1:]}", content)
    return file.getvalue()


class Runs:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


REFUSED = {
    "code": (pickle.dumps({"a": Runs(eval, "1")}, 2), r"eval"),
    "nothing": (b"", ""),
    "no end": (b"\x80\x02}", ""),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("as_archive", [True, False])
def test_a_checkpoint_with_more_than_tensors_is_refused(name: str, as_archive: bool, tmp_path: Path) -> None:
    """In an archive, and in a file as torch wrote it earlier."""
    path = tmp_path / "strange.pth"
    pickled, message = REFUSED[name]
    file = io.BytesIO()
    torch.save(3, file, _use_new_zipfile_serialization=False)
    before = file.getvalue()
    legacy = before.replace(b"\x80\x02K\x03.", pickled)
    assert legacy != before
    path.write_bytes(archive_of(pickled, _0=bytes(12)) if as_archive else legacy)
    with pytest.raises(DataError, match=f"^{path}: not a checkpoint that can be loaded safely .*({message})") as error:
        load_tensors(path)
    assert "weights_only" not in str(error.value)


def array(header: bytes, content: bytes) -> bytes:
    """An array in numpy's format, with any header."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


def header(shape: str, kind: str = "'<f4'") -> bytes:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def member(**content: np.ndarray) -> dict[str, bytes]:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **content)
    with zipfile.ZipFile(file) as reader:
        return {name: reader.read(name) for name in reader.namelist()}


def packed(**changes: bytes) -> bytes:
    """A feature file whose members may be any bytes."""
    members = member(**arrays()) | {f"{name}.npy": content for name, content in changes.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return file.getvalue()


SAFELY = "not a feature file that can be read safely"
NUMBERS = bytes(96)
STRANGE = {
    "more numbers than there are": (packed(query_features=array(header("(512, 4)"), NUMBERS)), SAFELY),
    "fewer numbers than there are": (packed(query_features=array(header("(5, 4)"), NUMBERS)), "query_pids: expected"),
    "a negative shape": (packed(query_features=array(header("(-6, -4)"), NUMBERS)), "query_features: |safely"),
    "code": (packed(query_features=array(header("__import__('os').abort()"), NUMBERS)), SAFELY),
    "columns with names": (
        packed(query_features=array(header("(6,)", "[('a', '<f4', (4,))]"), NUMBERS)),
        "query_features: expected numbers of shape",
    ),
    "objects": (packed(query_features=array(header("(6, 4)", "'|O'"), NUMBERS)), f"{SAFELY}.*[Oo]bject arrays"),
    "letters that are none": (
        packed(query_paths=array(header("(6,)", "'<U1'"), b"\xff" * 24)),
        "query_paths: expected",
    ),
    "a path that ends early": (packed(query_paths=member(a=np.array(["a\0b"] * 6))["a.npy"]), "query_paths: 6 of 6"),
    "no array": (packed(gallery_pids=b"1 2 3"), SAFELY),
    "an empty archive": (b"PK\5\6" + bytes(18), SAFELY),
    "something before it": (b"\0" + packed(), SAFELY),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_feature_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = STRANGE[name]
    path = tmp_path / "strange.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: .*({message})"):
        read_features(path)
