from pathlib import Path

import pytest

from utils.errors import DataError
from utils.files import atomic_path, write_json, write_text


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


def test_a_folder_that_is_missing_is_a_user_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.*cannot be written: No such file or directory"):
        write_json(tmp_path / "missing" / "file.json", {})
