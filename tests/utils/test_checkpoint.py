import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from utils.checkpoint import Checkpoint, check_finite, load_checkpoint, read_weights, save_checkpoint
from utils.errors import DataError

CHECKPOINT = Checkpoint({"weight": torch.arange(3.0)}, {"epoch": 2}, [4, 9], {"mAP": 0.5})


def test_a_checkpoint_comes_back_as_it_was_and_is_plain_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, CHECKPOINT)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.model["weight"], CHECKPOINT.model["weight"])
    assert loaded[1:] == CHECKPOINT[1:]
    plain = torch.load(path, weights_only=True)
    assert plain["format"] == 1
    assert set(plain) == {"format", "model", "params", "labels", "metrics"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


class Stopping:
    """A file whose second write is stopped."""

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
def test_what_stops_the_writing_is_what_is_told_and_the_old_file_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
    raised: type[BaseException],
    message: str,
) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, CHECKPOINT)
    save: Any = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Stopping(file, stop)))
    with pytest.raises(raised, match=message):
        save_checkpoint(path, CHECKPOINT._replace(params={"epoch": 3}))
    assert load_checkpoint(path).params == {"epoch": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_files_that_are_no_checkpoint_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = tmp_path / "good.pth"
    save_checkpoint(good, CHECKPOINT)
    contents = {
        "empty": b"",
        "text": b"no checkpoint",
        "cut": good.read_bytes()[:300],
        "pickle": pickle.dumps(Malicious()),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_checkpoint(tmp_path / name)
    torch.save({"format": 1, "model": Malicious()}, tmp_path / "zip")
    with pytest.raises(DataError, match="safely"):
        load_checkpoint(tmp_path / "zip")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], {"format": 1}])
def test_other_torch_files_are_named_as_such(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match="not a checkpoint of this framework"):
        load_checkpoint(tmp_path / "other.pth")


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 7, **CHECKPOINT._asdict()}, tmp_path / "new.pth")
    with pytest.raises(DataError, match="format 7"):
        load_checkpoint(tmp_path / "new.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", True, "a whole number, got bool"),
        ("format", 1.0, "a whole number, got float"),
        ("format", torch.ones(2), "a whole number, got Tensor"),
        ("model", [torch.ones(1)], "a mapping of names to tensors, got list of Tensor"),
        ("model", {"a": torch.ones(1), "b": 1}, "a mapping of names to tensors, got dict of str to Tensor, str to int"),
        ("model", {3: torch.ones(1)}, "a mapping of names to tensors, got dict of int to Tensor"),
        ("params", None, "a mapping of names to values, got NoneType"),
        ("params", {1: 2}, "a mapping of names to values, got dict of int to int"),
        ("metrics", 0.5, "a mapping of names to values, got float"),
        ("labels", 3, "a list of whole numbers, got int"),
        ("labels", torch.arange(3), "a list of whole numbers, got Tensor"),
        ("labels", (4, 9), "a list of whole numbers, got tuple"),
        ("labels", [4, 9.0, "x"], "a list of whole numbers, got list of float, int, str"),
        ("labels", [True], "a list of whole numbers, got list of bool"),
    ],
)
def test_an_entry_of_another_type_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save({"format": 1, **CHECKPOINT._asdict(), key: value}, path)
    with pytest.raises(DataError) as error:
        load_checkpoint(path)
    assert str(error.value) == f"{path}: not a checkpoint of this framework; {key}: expected {message}"


def test_a_checkpoint_may_be_empty(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "empty.pth", Checkpoint({}, {}, [], {}))
    assert load_checkpoint(tmp_path / "empty.pth") == Checkpoint({}, {}, [], {})


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"state_dict": state}, lambda state: {"model": state, "epoch": 3}]
)
def test_weights_are_found_in_common_wrappings(tmp_path: Path, wrap: object) -> None:
    torch.save(wrap({"module.a": torch.ones(1), "_orig_mod.b": torch.ones(2)}), tmp_path / "w.pth")  # pyright: ignore[reportCallIssue]
    assert {name: len(value) for name, value in read_weights(tmp_path / "w.pth").items()} == {"a": 1, "b": 2}


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no state dict"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(DataError, match="no such file"):
        read_weights(tmp_path / "missing.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_nothing_can_be_computed_with_are_named(bad: float) -> None:
    check_finite(Path("good.pth"), {"a": torch.ones(2), "steps": torch.tensor(3)})
    weights = {name: torch.tensor([1.0, bad]) for name in "abcde"}
    with pytest.raises(DataError, match=r"^w\.pth: a, b, c and 2 more: hold NaN or infinity"):
        check_finite(Path("w.pth"), {"good": torch.ones(2), **weights})
