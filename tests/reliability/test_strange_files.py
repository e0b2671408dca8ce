"""Checkpoints and feature files that hold code or were made by other programs are read or refused with a message."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.features import read_features
from tests.reliability.files import arrays, network_state, same
from utils.checkpoint import load_tensors, read_weights, save_tensors
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


def pickled_tensor(count: int, size: int = 3) -> bytes:
    """A mapping with a tensor of `size` numbers, in a storage that says it has `count`."""
    state = {"a": torch.zeros(size)}
    file = io.BytesIO()
    torch.save(state, file)
    original = zipfile.ZipFile(file).read("archive/data.pkl")
    return original.replace(b"K" + bytes([size]) + b"t", b"J" + count.to_bytes(4, "little") + b"t", 1)


class Runs:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


REFUSED = {
    "code": (pickle.dumps({"a": Runs(eval, "1")}, 2), r"eval"),
    "a storage larger than its record": (pickled_tensor(2**30), ""),
    "a missing record": (pickled_tensor(3).replace(b"X\1\0\0\x000", b"X\1\0\0\x007"), ""),
    "a tensor larger than its storage": (pickled_tensor(3).replace(b"K\3\x85", b"Kc\x85"), ""),
    "nothing": (b"", ""),
    "no end": (b"\x80\x02}", ""),
    "a text longer than the file": (b"\x80\x02X\xff\xff\xff\xff.", ""),
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


@pytest.mark.parametrize("legacy", [False, True])
def test_all_that_torch_writes_of_networks_is_read(legacy: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    adam, schedule = torch.optim.Adam(network.parameters()), None
    network(torch.ones(2, 3)).sum().backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [3, 4])
    shared = torch.arange(6.0)
    content = {
        "model": network.state_dict(),
        "optimizer": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "parameter": nn.Parameter(torch.ones(2)),
        "kinds": [torch.ones(2, dtype=kind) for kind in (torch.bfloat16, torch.half, torch.bool, torch.complex64)],
        "views": [shared[:3], shared[3:], shared.view(2, 3).t(), torch.zeros(0)],
        "plain": [None, True, 2**70, -1.5, "text", (1, 2), torch.float16, torch.Size([3]), torch.device("cpu")],
    }
    torch.save(content, tmp_path / "all.pth", _use_new_zipfile_serialization=not legacy)
    read = load_tensors(tmp_path / "all.pth")
    assert same({**read, "parameter": 0}, {**content, "parameter": 0})
    assert read["parameter"].equal(content["parameter"])


def test_the_weights_of_an_unfinished_run_are_found(tmp_path: Path) -> None:
    """Its state has them under "model", among much else."""
    state = network_state()
    content = {
        "belongs_to": {"pids": [1, 2]},
        "model": state,
        "optimizer": {"state": {}},
        "best_score": None,
        "step": 3,
    }
    save_tensors(tmp_path / "last.pth", content)
    assert same(read_weights(tmp_path / "last.pth"), dict(state))


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
    "fewer numbers than there are": (packed(query_features=array(header("(5, 4)"), NUMBERS)), "query_pids: expected"),
    "a negative shape": (packed(query_features=array(header("(-6, -4)"), NUMBERS)), "query_features: |safely"),
    "code": (packed(query_features=array(header("__import__('os').abort()"), NUMBERS)), SAFELY),
    "a deep header": (packed(query_features=array(b"(" * 9000, NUMBERS)), SAFELY),
    "an unknown version": (packed(query_features=array(header("(6, 4)"), NUMBERS, b"\7\0")), SAFELY),
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
    "nothing in it": (packed(gallery_pids=b""), SAFELY),
    "an empty archive": (b"PK\5\6" + bytes(18), SAFELY),
    "an empty file": (b"", SAFELY),
    "something before it": (b"\0" + packed(), SAFELY),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_feature_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = STRANGE[name]
    path = tmp_path / "strange.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: .*({message})"):
        read_features(path)
