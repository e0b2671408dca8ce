import re
from pathlib import Path

import pytest

from benchmarks.search import main


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_a_gallery_is_filled_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str], index: str) -> None:
    size = ["--rows", "400", "--dim", "16", "--index", index, "--rounds", "2"]
    for _ in range(2):
        main([*size, "--folder", str(tmp_path), "--out", str(tmp_path / "search.md")])
    text = (tmp_path / "search.md").read_text()
    assert len(re.findall(rf"400 embeddings of 16, {index}$", text, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^\| .*one query.* \| \d+\.\d \| \d+\.\d to \d+\.\d \|$", text, flags=re.MULTILINE)) == 4
    recall = float(re.findall(r"nearest ([\d.]+)% are found", text)[-1])
    assert recall == 100.0 if index == "exact" else recall > 90.0
    assert "ms a query" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["search.md"]


@pytest.mark.parametrize("wrong", [["--rows", "0"], ["--index", "lsh"]])
def test_impossible_numbers_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(wrong)
    assert exit_info.value.code == 2
