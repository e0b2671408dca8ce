import json
import re
from pathlib import Path

import pytest

from benchmarks.deployment import main, table_of


@pytest.mark.slow
def test_every_contestant_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--model", "resnet_18", "--size", "64", "32", "--batch", "2"]
    main([*size, "--batches", "1", "--rounds", "2", "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out.json").read_text())
    names = ["torch eager", "predictor, checkpoint", "predictor, onnx fp32", "predictor, onnx int8"]
    assert [row["name"] for row in report["rows"]] == names
    assert all(len(row["rounds"]) == 2 and min(row["rounds"]) > 0 for row in report["rows"])
    assert report["rows"][0]["times_eager"] == 1.0
    table = (tmp_path / "out.md").read_text()
    assert table in capsys.readouterr().out
    assert len(re.findall(r"^\| .*\d\.\d\d \|$", table, flags=re.MULTILINE)) == 4


def test_the_table_shows_spread_and_what_failed() -> None:
    report = {
        "date": "2026-01-01",
        "hardware": "a machine",
        "versions": {"torch": "2"},
        "network": "resnet_18",
        "batch": 4,
        "rows": [
            {"name": "a", "images_per_second": 2.0, "rounds": [1.0, 2.0, 3.0], "times_eager": 1.0},
            {"name": "b", "error": "its process has ended"},
        ],
    }
    expected = ["| a | 2.0 | 1.0 to 3.0 | 1.00 |", "| b | its process has ended | | |"]
    assert table_of(report).splitlines()[-2:] == expected


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--batch", "0"], ["--model", "vgg"]])
def test_impossible_numbers_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(wrong)
    assert exit_info.value.code == 2
