"""Checkpoints that hold code, or by other programs: read or refused with one message, and never anything else."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reliability.checkpoints import network_state, outcome, same
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
    "an empty stack": (b"\x80\x02s.", ""),
    "a memory that was never put": (b"\x80\x02h\1.", ""),
    "no number": (b"\x80\x02\x8a\xff.", ""),
    "no text": (b"\x80\x02X\1\0\0\0\xff.", ""),
    "a text longer than the file": (b"\x80\x02X\xff\xff\xff\xff.", ""),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("as_archive", [True, False])
def test_what_holds_more_than_tensors_is_refused(name: str, as_archive: bool, tmp_path: Path) -> None:
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


OPERATIONS = [b"}", b"]", b")", b"(", b"t", b"u", b"s", b"e", b"a", b"R", b"b", b"Q", b"\x85", b"\x86", b"\x87", b"N"]
OPERATIONS += [
    b"K\1",
    b"X\1\0\0\x000",
    b"q\0",
    b"h\0",
    b"q\1",
    b"h\1",
    b"M\1\1",
    b"J\0\0\0\xff",
    b"\x81",
    b"\x88",
    b".",
]
OPERATIONS += [b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"X\7\0\0\0storage"]
OPERATIONS += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nCounter\n", b"ctorch\nfloat32\n"]
OPERATIONS += [b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\3tQ"]


@settings(max_examples=400, deadline=None, database=None)
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=25))
def test_any_pickle_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, operations: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(archive_of(b"\x80\x02" + b"".join(operations) + b".", _0=bytes(12)))
    for read in (load_tensors, read_weights):
        outcome(path, None, read)


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
