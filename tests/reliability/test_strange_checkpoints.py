"""Checkpoints made to do harm, or by other programs: read or refused with one message, and never anything else."""

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


ORDERED = b"ccollections\nOrderedDict\n)R"
HARMFUL = {
    "code": (pickle.dumps({"a": Runs(eval, "1")}, 2), r"holds code, or a type other.*'__builtin__\.eval'"),
    "a sparse tensor's function": (b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.", "holds code, or a type other"),
    "a key deep enough to end the process": (b"\x80\x02})" + b"\x85" * 200_000 + b"K\1s.", "names and whole numbers"),
    "keys that take for ever to hash": (b"\x80\x02})" + b"q\0h\0\x86" * 64 + b"K\1s.", "names and whole numbers"),
    "a method put on a mapping": (b"\x80\x02" + ORDERED + b"}X\5\0\0\0itemsNsb.", "it sets attributes"),
    "an attribute put on a function": (b"\x80\x02ctorch\nSize\n}X\1\0\0\0aNsb.", "it sets attributes"),
    "another type's instance": (b"\x80\x02ctorch\nSize\n)\x81.", "does not write NEWOBJ"),
    "a storage larger than its record": (pickled_tensor(2**30), "not of the size that it says"),
    "one smaller": (pickled_tensor(2), "not of the size that it says"),
    "a missing record": (pickled_tensor(3).replace(b"X\1\0\0\x000", b"X\1\0\0\x007"), "not of the size that it says"),
    "a tensor larger than its storage": (pickled_tensor(3).replace(b"K\3\x85", b"Kc\x85"), "out of bounds|storage"),
    "a very long text": (b"\x80\x02X" + (9_000_000).to_bytes(4, "little") + bytes(9_000_000) + b".", "room|remain"),
    "too many dimensions": (b"\x80\x02ctorch\nSize\n(" + b"K\1" * 65 + b"t\x85R.", "more than 64 numbers"),
    "nothing": (b"", "safely"),
    "no end": (b"\x80\x02}", "safely"),
    "an empty stack": (b"\x80\x02s.", "safely"),
    "a memory that was never put": (b"\x80\x02h\1.", "safely"),
    "no number": (b"\x80\x02\x8a\xff.", "safely"),
    "no text": (b"\x80\x02X\1\0\0\0\xff.", "safely"),
    "a text longer than the file": (b"\x80\x02X\xff\xff\xff\xff.", "safely"),
}


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("as_archive", [True, False])
def test_what_could_do_harm_is_refused(name: str, as_archive: bool, tmp_path: Path) -> None:
    """In an archive, and in a file as torch wrote it earlier."""
    path = tmp_path / "strange.pth"
    pickled, message = HARMFUL[name]
    file = io.BytesIO()
    torch.save(3, file, _use_new_zipfile_serialization=False)
    before = file.getvalue()
    legacy = before.replace(b"\x80\x02K\x03.", pickled)
    assert legacy != before
    path.write_bytes(archive_of(pickled, _0=bytes(12)) if as_archive else legacy)
    with pytest.raises(DataError, match=f"^{path}: .*({message if as_archive else ''})"):
        load_tensors(path)


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
OPERATIONS += [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nCounter\n",
]
OPERATIONS += [ORDERED, b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\3tQ", b"ctorch\nfloat32\n"]


@settings(max_examples=400, deadline=None, database=None)
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=25))
def test_any_pickle_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, operations: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(archive_of(b"\x80\x02" + b"".join(operations) + b".", _0=bytes(12)))
    for read in (load_tensors, read_weights):
        outcome(path, None, read)


def spoilt_archives() -> dict[str, tuple[bytes, str]]:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(300)}, file)
    good = file.getvalue()

    def rewritten(compression: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as reader, zipfile.ZipFile(out, "w", compression) as writer:
            for entry in reader.infolist():
                writer.writestr(entry.filename, reader.read(entry))
        return out.getvalue()

    encrypted = bytearray(good)
    encrypted[good.index(b"PK\1\2") + 8] |= 1
    folder = bytearray(good)
    folder[good.index(b"PK\1\2") + 38] |= 0x10
    copied = rewritten(zipfile.ZIP_STORED)
    return {
        "compressed": (rewritten(zipfile.ZIP_DEFLATED), "compressed in a way it should not be"),
        "encrypted": (bytes(encrypted), "'archive/data.pkl' is encrypted"),
        "a folder of numbers": (bytes(folder), "'archive/data.pkl' is said to be a folder"),
        "two of a name": (copied.replace(b"archive/byteorder", b"archive/DATA.pkl\0"), "two of its entries"),
        "something before it": (b"#!/bin/sh\n" + good, "does not begin as a file that torch wrote"),
        "an archive before it": (good[: good.index(b"PK\1\2")] + good, "does not begin with its first entry"),
    }


@pytest.mark.parametrize("name", spoilt_archives())
def test_an_archive_that_readers_may_take_for_different_things_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.pth"
    content, message = spoilt_archives()[name]
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: .*{message}"):
        load_tensors(path)


def test_a_checkpoint_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.pth"
    save_tensors(path, {"a": torch.zeros(1000)})
    monkeypatch.setattr("utils.archives.free_memory", lambda: 3000)
    with pytest.raises(DataError, match=r"large\.pth: reading it takes 0\.0 GiB of memory, and 0\.0 GiB are free"):
        load_tensors(path)
    monkeypatch.setattr("utils.archives.free_memory", lambda: None)
    assert len(load_tensors(path)["a"]) == 1000


def test_a_description_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(tmp_path / "a.pth", {"a": list(range(100))})
    monkeypatch.setattr("utils.pickle_outline.MAX_OPERATIONS", 100)
    with pytest.raises(DataError, match="takes more room than that of any network"):
        load_tensors(tmp_path / "a.pth")


def test_a_large_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(tmp_path / "a.pth", {"a": torch.zeros(3)})
    monkeypatch.setattr("utils.archives.MAX_DIRECTORY", 100)
    with pytest.raises(DataError, match="its directory takes more than"):
        load_tensors(tmp_path / "a.pth")


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
