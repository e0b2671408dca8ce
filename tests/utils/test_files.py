import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.errors import DataError
from utils.files import atomic_path, expand_user, remove_leftovers, temporary_path, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.*cannot be written: No such file or directory"):
        write_json(tmp_path / "missing" / "file.json", {})


def test_a_file_is_always_whole_while_threads_write_it(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", [character * 100_000 for character in "abc"]
    write_text(path, texts[0])
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write_text, path, text) for _ in range(20) for text in texts]
        while not all(job.done() for job in writing):
            assert path.read_text() in texts
        for job in writing:
            job.result()
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "mine")
    others = [".file.123.tmp", "file.unfinished-1-0123abcd.tmp", ".file.unfinished-1-0123abcd", ".lock"]
    for name in others:
        (tmp_path / name).touch()
    code = (
        "import os, sys; from pathlib import Path; from utils.files import atomic_path, temporary_path\n"
        "folder = temporary_path(Path(sys.argv[1]) / 'set') / 'train'\n"
        "folder.mkdir(parents=True); (folder / 'image').touch()\n"
        "with atomic_path(Path(sys.argv[1]) / 'file') as path: path.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
    left = sorted(path for path in tmp_path.iterdir() if path.name not in ("file", *others))
    assert len(left) == 4
    of_set = [path for path in left if path.name.startswith(".set.")]
    assert remove_leftovers(tmp_path, "set") == of_set
    assert remove_leftovers(tmp_path, "fil") == []
    assert remove_leftovers(tmp_path) == [path for path in left if path not in of_set]
    assert remove_leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", *others])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_temporary_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    link = temporary_path(tmp_path / "set")
    link.symlink_to(tmp_path / "elsewhere")
    assert remove_leftovers(tmp_path) == [link]
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_a_temporary_file_that_cannot_be_removed_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = temporary_path(tmp_path / "file")
    left.touch()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove_leftovers(tmp_path) == []
    assert f"{left}: left by a process that was killed; cannot be removed: Permission denied" in caplog.text


def test_only_the_home_of_a_known_user_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/runs") == Path("/home/me/runs")
    assert expand_user(Path("~nosuchuser/runs")) == Path("~nosuchuser/runs")
