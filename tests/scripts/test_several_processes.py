"""train.py and evaluator.py in several processes; on the CPU, where Gloo joins them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY_PARAMS, TWO, Script, torchrun
from tests.runs import DOCUMENTED, curves_of, files_of, num_epochs, records_of

Market = Callable[[Path], Path]
OF_EACH = ("batch_sampling_params.P=2", "gather_embeddings=true", "sync_bn=true")
"""Half of the tiny params' batch, and what makes two of them act as one."""
OF_A_BATCH_OF_ITS_OWN = {"feature_dropout": 0.0, "global_feature_erasing": 0.0, "spectral_trans": 0.0}
"""What depends on how images are shared out, switched off."""


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, make_market: Market) -> Script:
    """A data set and the params to train on it."""
    script = Script(tmp_path_factory.mktemp("several"))
    make_market(script.folder / "market")
    script.write_params(model_params={**TINY_PARAMS["model_params"], **OF_A_BATCH_OF_ITS_OWN}, log_every=1)
    return script


@pytest.fixture(scope="module")
def finished(market: Script) -> tuple[Script, str]:
    """A run of two processes, and their messages."""
    process = market.succeed("train.py", "--sub_working_dir", "together", "--set", *OF_EACH, processes=TWO)
    return market, process.stderr


def test_one_process_writes_and_speaks_for_all(finished: tuple[Script, str]) -> None:
    script, told = finished
    run = script.folder / "runs" / "together"
    assert files_of(run) == DOCUMENTED
    for line in ("one of 2 processes", "2 epochs of 4 steps of 4 images on each of 2 devices", "finished: "):
        assert told.count(line) == 1, told
    assert [record["step"] for record in records_of(run)] == [4, 8]


def test_two_processes_do_what_one_does_with_the_double_batch(finished: tuple[Script, str]) -> None:
    script, _ = finished
    script.succeed("train.py", "--sub_working_dir", "alone")
    two, one = (curves_of(script.folder / "runs" / name) for name in ("together", "alone"))
    assert two.keys() == one.keys() > {"train/softmax_parts", "train/triplet_global", "train/accuracy"}
    for name in (name for name in one if name.startswith("train/")):
        # The same weights see the same crops of the same images. Later steps have felt how rounding differs.
        assert two[name][0] == pytest.approx(one[name][0], rel=1e-4), name


def test_the_evaluator_has_the_same_figures_from_one_process_and_from_two(finished: tuple[Script, str]) -> None:
    script, _ = finished
    outcomes = []
    for processes in (((),), TWO):
        files = ("result_log_file=result.json", "features_path=features.npz")
        process = script.succeed("evaluator.py", "runs/together", "--set", *files, processes=processes)
        assert process.stdout.count("mAP_trapezoid") == 1
        outcomes.append(json.loads((script.folder / "result.json").read_text()))
    assert outcomes[0]["metrics"] == pytest.approx(outcomes[1]["metrics"], abs=1e-6)
    assert outcomes[0]["counts"] == outcomes[1]["counts"]
    epochs = records_of(script.folder / "runs" / "together")
    best = max((record["metrics"] for record in epochs), key=lambda metrics: metrics["mAP"])
    assert outcomes[1]["metrics"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("lr.base_lr=0.02", "lr.base_lr is 0.02, but 0.01"),
        ("batches_dir=other", "not the data set"),
        ("batches_dir=nowhere", "process 1 of 2: nowhere: no such folder"),
    ],
)
def test_processes_that_differ_all_stop(market: Script, make_market: Market, changes: str, words: str) -> None:
    other = make_market(market.folder / "other")
    (other / "bounding_box_train" / "0020_c1s1_000001_00.jpg").unlink(missing_ok=True)
    arguments = ("--sub_working_dir", "mixed", "--set", *OF_EACH)
    message = market.mistake("train.py", *arguments, processes=((), (changes,)))
    assert message.count(words) == 1, message
    assert not (market.folder / "runs" / "mixed").exists()


@pytest.mark.slow
def test_two_machines_train_together_and_go_on_when_a_process_of_one_dies(market: Script) -> None:
    """Two of torchrun's agents on this machine, each of which believes to be one of two machines."""
    with socket.create_server(("localhost", 0)) as free:
        endpoint = f"localhost:{free.getsockname()[1]}"
    where = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=a"]
    where += ["--local-addr=localhost"]
    agent = [sys.executable, "-m", "torch.distributed.run", *where, "--max-restarts=3", "--no-python"]
    arguments = ("--sub_working_dir", "machines", "--set", *OF_EACH, "epoch=6")
    run = market.folder / "runs" / "machines"
    with (
        market.start("train.py", *arguments, launcher=agent) as one,
        market.start("train.py", *arguments, launcher=agent) as other,
    ):
        one.wait_until(lambda: num_epochs(run) >= 2, "two epochs")
        second = next(
            int(child)
            for pid in (one.process.pid, other.process.pid)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        )
        os.kill(second, signal.SIGKILL)
        ended: list[subprocess.CompletedProcess[str]] = [agent.finish() for agent in (one, other)]
    told = "".join(process.stderr for process in ended)
    assert [process.returncode for process in ended] == [0, 0], told
    assert re.search(r"resumed after step \d+, in epoch [2-6] of 6", told), told
    assert [record["epoch"] for record in records_of(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_that_may_be_started_again_needs_a_name(market: Script) -> None:
    process = market.run("train.py", launcher=torchrun("--nproc-per-node=2", "--max-restarts=1"))
    assert process.returncode != 0
    assert "add --sub_working_dir NAME" in process.stderr


def test_gpus_that_are_not_there_are_named(market: Script) -> None:
    message = market.mistake("train.py", "--set", "parallels=[0,1]")
    assert "no GPU 0, 1" in message
    assert str(ROOT) not in message
