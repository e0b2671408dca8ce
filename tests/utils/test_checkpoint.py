from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from utils.checkpoint import Checkpoint, check_finite, load_checkpoint, load_tensors, read_weights, save_checkpoint
from utils.errors import DataError

CHECKPOINT = Checkpoint({"weight": torch.arange(3.0)}, {"epoch": 2}, [4, 9], {"mAP": 0.5})


def test_a_checkpoint_is_read_as_written_and_by_plain_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, CHECKPOINT)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.model["weight"], CHECKPOINT.model["weight"])
    assert loaded[1:] == CHECKPOINT[1:]
    plain = torch.load(path, weights_only=True)
    assert plain["format"] == 1
    assert set(plain) == {"format", "model", "params", "labels", "metrics"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]
    save_checkpoint(path, Checkpoint({}, {}, [], {}))
    assert load_checkpoint(path) == Checkpoint({}, {}, [], {})


class Stopping:
    """A file whose second write raises."""

    def __init__(self, file: BinaryIO, stop: BaseException) -> None:
        self.file = file
        self.stop = stop
        self.writes = 0

    def write(self, content: bytes) -> int:
        self.writes += 1
        if self.writes == 2:
            raise self.stop
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize(
    ("stop", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (OSError(28, "No space left on device"), DataError, "No space left on device"),
    ],
)
def test_an_error_while_writing_is_raised_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, raised: type[BaseException], message: str
) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, CHECKPOINT)
    save: Any = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Stopping(file, stop)))
    with pytest.raises(raised, match=message):
        save_checkpoint(path, CHECKPOINT._replace(params={"epoch": 3}))
    assert load_checkpoint(path).params == {"epoch": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("as_archive", [True, False])
def test_numbers_of_numpy_beside_weights_are_read_as_none(as_archive: bool, tmp_path: Path) -> None:
    """As torchreid and fast-reid save metrics."""
    path, numbers = tmp_path / "theirs.pth", {"rank1": np.float32(0.5), "mAP": np.float64(0.25), "epoch": np.int64(3)}
    torch.save({"a": torch.ones(2), **numbers}, path, _use_new_zipfile_serialization=as_archive)
    loaded = load_tensors(path)
    assert torch.equal(loaded.pop("a"), torch.ones(2))
    assert loaded == dict.fromkeys(numbers)


def test_bytes_in_a_file_of_python_2_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"a": "abcde"}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # As Python 2 pickled a text of bytes: another opcode, and one byte for its length.
    old = content.replace(b"X\x05\x00\x00\x00abcde", b"U\x05ab\xffde")
    assert old != content
    path.write_bytes(old)
    assert load_tensors(path) == {"a": "ab\xffde"}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\3\4"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.pth: .*(not a checkpoint|damaged)"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], {"format": 1}])
def test_other_torch_files_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match="not a checkpoint of this framework"):
        load_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 7, "format 7"),
        ("format", True, "format: .* got bool"),
        ("format", torch.ones(2), "format: .* got Tensor"),
        ("model", [torch.ones(1)], "model: .* got list of Tensor"),
        ("model", {"a": torch.ones(1), "b": 1}, "model: .* got dict of str to Tensor, str to int"),
        ("model", {3: torch.ones(1)}, "model: .* got dict of int to Tensor"),
        ("params", None, "params: .* got NoneType"),
        ("metrics", 0.5, "metrics: .* got float"),
        ("labels", torch.arange(3), "labels: .* got Tensor"),
        ("labels", [4, 9.0, "x"], "labels: .* got list of float, int, str"),
        ("labels", [True], "labels: .* got list of bool"),
    ],
)
def test_an_entry_of_another_type_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save({"format": 1, **CHECKPOINT._asdict(), key: value}, path)
    with pytest.raises(DataError, match=rf"other\.pth: .*{message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"state_dict": state}, lambda state: {"model": state, "epoch": 3}]
)
def test_weights_are_found_in_common_wrappings(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap({"module.a": torch.ones(1), "_orig_mod.b": torch.ones(2)}), tmp_path / "w.pth")
    assert {name: len(value) for name, value in read_weights(tmp_path / "w.pth").items()} == {"a": 1, "b": 2}


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no state dict"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(DataError, match="no such file"):
        read_weights(tmp_path / "missing.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    check_finite(Path("good.pth"), {"a": torch.ones(2), "steps": torch.tensor(3)})
    weights = {name: torch.tensor([1.0, bad]) for name in "abcde"}
    with pytest.raises(DataError, match=r"^w\.pth: a, b, c and 2 more: "):
        check_finite(Path("w.pth"), {"good": torch.ones(2), **weights})
