import json
from pathlib import Path

import pytest

from benchmarks.deployment import main


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--model", "resnet_18", "--size", "64", "32", "--batch", "2", "--batches", "2"]
    main([*size, "--rounds", "2", "--out", str(tmp_path / "out")])
    (rows,) = json.loads((tmp_path / "out.json").read_text())["tables"].values()
    names = ["torch eager", "predictor, checkpoint", "predictor, onnx fp32", "predictor, onnx int8"]
    assert [row[""] for row in rows] == names
    assert rows[0]["times torch eager"] == [1.0, 1.0]
    assert all(len(row["images/s"]) == 2 and min(row["images/s"]) > 0 for row in rows)
    assert (tmp_path / "out.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--batch", "0"], ["--model", "vgg"]])
def test_impossible_arguments_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(wrong)
    assert exit_info.value.code == 2
