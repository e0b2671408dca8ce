"""Importing through the real entry scripts."""

import json

import pytest
import torch

from tests.conftest import Script
from tests.foreign import randomised
from tests.foreign.torchreid import TorchreidOSNet


@pytest.mark.slow
def test_an_imported_osnet_is_evaluated_and_exported(script: Script, make_market) -> None:
    make_market(script.folder / "market")
    network = randomised(TorchreidOSNet("bn", 0.25), (64, 32))
    # As torchreid saves it, with a number of numpy.
    content = {"state_dict": network.state_dict(), "epoch": 150, "rank1": torch.ones(1).numpy()[0]}
    torch.save(content, script.folder / "osnet.pth.tar")
    arguments = ("--from", "osnet.pth.tar", "--as", "torchreid", "--out", "osnet.pth", "--set", "img_h=64", "img_w=32")
    message = script.succeed("train.py", "--operation", "import_weights", *arguments).stderr
    assert "written: osnet.pth" in message
    assert "2 tensors unused: classifier.weight, classifier.bias" in message
    script.succeed("evaluator.py", "osnet.pth", "--set", "batches_dir=market", "result_log_file=result.json")
    result = json.loads((script.folder / "result.json").read_text())
    assert result["counts"]["num_query"] == 7
    assert result["evaluation_params"]["metric"] == "euclidean"
    export = ("--operation", "export_onnx", "--from", "osnet.pth", "--set")
    assert "only export_params, batches_dir may be set" in script.mistake("train.py", *export, "img_h=32")
    script.succeed("train.py", *export, "batches_dir=market", "export_params.measured_images=0")
    assert (script.folder / "osnet.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "a.pth"), "needs --from FILE and --as FRAMEWORK"),
        (("--as", "torchreid"), "needs --from FILE and --as FRAMEWORK"),
        (("--from", "a.pth", "--as", "torchreid", "--sub_working_dir", "run"), "--sub_working_dir goes with"),
        (("--from", "a.pth", "--as", "torchreid"), "a.pth: no such file"),
    ],
)
def test_mistakes_of_the_command_line(script: Script, arguments: tuple[str, ...], message: str) -> None:
    assert message in script.mistake("train.py", "--operation", "import_weights", *arguments)


def test_a_file_or_a_run_is_exported(script: Script) -> None:
    arguments = ("--operation", "export_onnx", "--from", "a.pth", "--sub_working_dir", "run")
    assert "takes --sub_working_dir NAME or --from FILE" in script.mistake("train.py", *arguments)


def test_a_file_to_import_needs_the_operation(script: Script) -> None:
    script.write_params()
    assert "--from goes with import_weights" in script.mistake("train.py", "--from", "a.pth")
