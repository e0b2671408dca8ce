import json
import re
import statistics
import time
from pathlib import Path

import pytest
import torch

from benchmarks.loss_overhead import as_leaves, build, lower, main, milliseconds
from models.outputs import GLOBAL, PARTS

CPU = torch.device("cpu")
# Six stripes need six rows of the feature map: at stride 1, 96 pixels.
TINY = ["--model", "resnet_18", "--batch", "8", "--height", "96", "--width", "32", "--repeats", "2", "--device", "cpu"]


def test_the_losses_share_of_a_step_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, "--out", str(tmp_path / "results" / "overhead")])
    report = json.loads((tmp_path / "results" / "overhead.json").read_text())
    assert len(report["losses_ms"]) == len(report["step_ms"]) == 2
    assert report["median_losses_ms"] == statistics.median(report["losses_ms"])
    assert report["ratio"] == pytest.approx(report["median_losses_ms"] / report["median_step_ms"])
    # The step holds the losses and a network besides.
    assert 0 < report["ratio"] < 1
    (row,) = re.findall(r"^\| resnet_18.*$", capsys.readouterr().out, flags=re.MULTILINE)
    assert f"| {report['ratio']:.2%} |" in row


def test_the_losses_are_lowered_down_to_the_outputs_of_the_network_only() -> None:
    network, criterion = build("resnet_18", CPU)
    output = network(torch.randn(8, 3, 96, 32))
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    leaves = as_leaves(output)
    lower(criterion, leaves, labels)
    assert set(criterion(leaves, labels).losses) == {
        "softmax_parts",
        "softmax_global",
        "triplet_global",
        "triplet_parts",
        "triplet_concat",
    }
    for name in (PARTS, GLOBAL):
        for leaf in (leaves[name].features, leaves[name].scores.logits):
            assert leaf.grad is not None
            assert leaf.grad.abs().sum() > 0
    assert leaves[PARTS].features.shape == (6, 8, 256)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_time_is_in_milliseconds() -> None:
    assert 20 <= milliseconds(lambda: time.sleep(0.02), CPU) < 2000


@pytest.mark.parametrize("wrong", [["--batch", "6"], ["--batch", "4"], ["--repeats", "0"]])
def test_impossible_sizes_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*TINY, *wrong])
    assert exit_info.value.code == 2
    assert wrong[0] in capsys.readouterr().err
