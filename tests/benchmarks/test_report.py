import json
import statistics
from pathlib import Path

import pytest

from benchmarks.report import Report, driver_version, environment, in_words, table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("fp32", "fp32"),
        (3, "3"),
        (12345.6, "12,346"),
        (88.449, "88.4"),
        (0.12345, "0.1235"),
        (1.19e-7, "1.2e-07"),
        ([88.0], "88.0"),
        ([1200.0, 1300.0], "1,250 ± 71"),
    ],
)
def test_cells_show_mean_and_spread(value: object, expected: str) -> None:
    assert in_words(value) == expected


def test_a_table_has_the_columns_of_all_rows_and_aligns_numbers() -> None:
    lines = table([{"name": "ours", "images/s": [1.0, 3.0]}, {"name": "failed", "error": "no memory"}]).splitlines()
    assert lines[0] == "| name | images/s | error |"
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[2] == f"| ours | 2.00 ± {statistics.stdev([1, 3]):.2f} |  |"
    assert lines[3] == "| failed |  | no memory |"


def test_a_report_is_printed_and_written_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"A caption": [{"name": "ours", "seconds": [1.0, 2.0]}]}
    Report("Speed of nothing", tables=tables, notes=["Note."]).save(tmp_path / "new" / "nothing")
    text = (tmp_path / "new" / "nothing.md").read_text()
    assert text in capsys.readouterr().out
    about = environment("cpu")
    assert text.startswith(f"Speed of nothing\n\n{about['date']}; {about['hardware']}; python 3.")
    assert "A caption\n\n| name | seconds |" in text
    assert text.endswith("\n\nNote.\n")
    content = json.loads((tmp_path / "new" / "nothing.json").read_text())
    assert content["tables"] == tables
    assert content["versions"].keys() == {"python", "torch", "torchvision"}


def test_the_driver_is_the_one_that_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_version() == "unknown"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    tool.chmod(0o755)
    assert driver_version() == "580.65.06"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert driver_version() == "unknown"
