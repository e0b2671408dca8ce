import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.saving import main

TINY = {
    "synthetic.train_identities": 4,
    "synthetic.test_identities": 2,
    "synthetic.cameras": 2,
    "synthetic.distractors": 0,
    "synthetic.junk": 0,
    "img_h": 64,
    "img_w": 32,
    "batch_sampling_params": '"4*2"',
    "model_params.pcb_n_parts": 2,
    "keep_freed_memory": "false",
}


def test_what_saving_costs_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where the synthetic pedestrians are made
    settings = [f"{name}={value}" for name, value in TINY.items()]
    main(["--rounds", "2", "--steps", "2", "--out", str(tmp_path / "saving"), "--set", *settings])
    report = json.loads((tmp_path / "saving.json").read_text())
    assert len(report["seconds_with"]) == len(report["seconds_without"]) == len(report["standstill_seconds"]) == 2
    assert report["images"] == [8, 64, 32]
    # A resnet_18 and its momentum.
    assert report["state_bytes"] > 2 * 4 * 11e6
    step = statistics.median(report["seconds_without"]) / 2
    assert report["step_seconds"] == step
    assert report["standstill_per_step"] == pytest.approx(statistics.median(report["standstill_seconds"]) / step)
    assert re.search(r"^\| resnet_18, 8 images of 64 x 32 \| \d+ MiB \|", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--steps", "1"]])
def test_impossible_numbers_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(wrong)
    assert exit_info.value.code == 2
    assert wrong[0] in capsys.readouterr().err
