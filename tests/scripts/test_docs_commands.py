"""Every command and every Python example of the documentation runs, in the order of the pages."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY_PARAMS, Script, torchrun
from tests.foreign.torchreid import TorchreidOSNet
from tests.scripts.documents import STORY, blocks, commands

SMALL = {"train_identities": 6, "test_identities": 2, "distractors": 0, "junk": 0, "cameras": 2}
WRITTEN = (
    "pictures/rank_list.png",
    "features.npz",
    "report.html",
    "classes.html",
    "persons/grid.png",
    "pedestrians.npz",
    "osnet.npz",
    "datasets/pedestrians.lmdb",
)


@pytest.mark.slow
def test_the_commands_of_the_pages_run_in_their_order(script: Script, make_market: Callable[[Path], Path]) -> None:
    """With a tiny data set in place of the shipped one, everything else as the pages say."""
    prepare(script, make_market)
    run = 0
    for page in STORY:
        for command in commands(page):
            # Not make, pip and tensorboard; nor benchmarks, which take minutes and have tests of their own.
            if re.match(r"python (\w+\.py|-m deploy)|torchrun ", command):
                run_command(script, command)
                run += 1
        # The example of tracking.md runs in tests/deploy/test_tracking.py, with the thresholds of its model.
        for place, block in enumerate([] if page.stem == "tracking" else blocks(page, "python")):
            example = script.folder / f"{page.stem}_{place}.py"
            example.write_text(block)
            run_python(script, str(example))
            run += 1
    assert run >= 30
    assert [name for name in WRITTEN if not (script.folder / name).is_file()] == []


def prepare(script: Script, make_market: Callable[[Path], Path]) -> None:
    """The params files and data sets that the pages name, so small that each command takes seconds."""
    market = make_market(script.folder / "datasets" / "Market-1501")
    make_classes(script.folder / "datasets" / "classes", market / "bounding_box_train")
    model = {**TINY_PARAMS["model_params"], "spectral_trans": 0}
    generator = {"epoch": 1, "ngf": 4, "ndf": 4, "batch_size": 4, "num_measured": 8}
    # Three epochs, as one of the commands lets generated images in after two.
    script.write_params(
        batches_dir="datasets/Market-1501", synthetic=SMALL, model_params=model, gan_params=generator, epoch=3
    )
    torch.save(TorchreidOSNet("bn", 0.25).state_dict(), script.folder / "osnet_x0_25_market.pth.tar")
    shutil.copytree(ROOT / "recipes", script.folder / "recipes")
    shutil.copy(ROOT / "eval_params.json", script.folder)
    recipes = script.folder / "recipes"
    single = {"pcb_n_parts": 0, "feature_global_dim": 0, "random_drop_branches": 0, "feature_dim": 16}
    change(recipes / "single_feature.json", {"model_params": single})
    change(recipes / "own_data.json", {"imagenet_pretrain": False, "epoch": 1, "batch_sampling_params": "4*1"})
    change(
        recipes / "unsupervised/own_crops.json",
        {
            **{"imagenet_pretrain": False, "epoch": 1, "img_h": 64, "img_w": 32},
            "batch_sampling_params": {"P": 4, "K": 2, "balance": None},
            "clustering_params": {"iterations": 2, "k1": 3, "k2": 2, "min_samples": 2, "eps": 0.7},
        },
    )
    shutil.copytree(market / "bounding_box_train", script.folder / "crops" / "monday")
    # A later command evaluates on "synthetic", which is then that of the newest run.
    tiny = {"imagenet_pretrain": False, "model_params": {}, "epoch": 1, "synthetic": SMALL}
    change(recipes / "seed/_market1501.json", tiny)
    smaller = {"model_params": {"model": "resnet_18"}, "batch_sampling_params": "4*2", "lr": {"warmup_epoch": 0}}
    change(recipes / "seed/pcb6_global_gtri016_rb6.json", smaller)


def change(recipe: Path, settings: dict[str, object]) -> None:
    """Give a copy of a recipe other settings, so that it trains in seconds."""
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), **settings}))


def make_classes(folder: Path, images: Path) -> None:
    """Two classes with a few images each, for the commands that classify."""
    for place, image in enumerate(sorted(images.iterdir())):
        split = folder / ("val" if place % 5 == 0 else "train") / ("odd" if place % 2 else "even")
        split.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, split)


def run_command(script: Script, command: str) -> None:
    """Run one command line to its end; it must succeed."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"]:
        run_python(script, *words[1:])
        return
    place = next(place for place, word in enumerate(words) if word.endswith(".py"))
    launcher = torchrun(*words[1:place]) if words[0] == "torchrun" else ()
    process = script.run(words[place], *words[place + 1 :], launcher=launcher)
    if "resume_train" in words:
        # Nobody has interrupted the run here.
        assert process.returncode == 2
        assert "is finished" in process.stderr
    else:
        assert process.returncode == 0, f"{command}\n{process.stderr}"
    if "--detach" in words:
        wait_for(script.folder / "runs" / "second" / "train_log", "finished")


def run_python(script: Script, *arguments: str) -> None:
    """A module or a file, with the framework's code; a server is left running until it answers."""
    serves = "deploy.serve" in arguments
    # A server gets any free port.
    command = [sys.executable, "-W", "error", *arguments, *(["--port", "0"] if serves else [])]
    environment = {**script.environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=script.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        messages = ""
        if serves:
            messages = wait_for_server(process)
            process.send_signal(signal.SIGINT)
        messages += process.stderr.read()
        assert process.wait() == (130 if serves else 0), messages


def wait_for_server(process: subprocess.Popen[str]) -> str:
    """Wait until a server names its address, and ask for its health; what it has written until then."""
    assert process.stderr is not None
    messages = ""
    for line in process.stderr:
        messages += line
        if address := re.search(r"http://127\.0\.0\.1:\d+", line):
            with urllib.request.urlopen(f"{address[0]}/health") as answer:
                assert json.load(answer)["status"] == "ok"
            break
    return messages


def wait_for(log: Path, text: str) -> None:
    """Wait until a background run has said something."""
    deadline = time.monotonic() + 120
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_tensorboard_command_serves_the_runs(script: Script) -> None:
    command = next(command for page in STORY for command in commands(page) if command.startswith("tensorboard"))
    (script.folder / "runs").mkdir()
    tensorboard = [sys.executable, "-m", "tensorboard.main", *shlex.split(command)[1:], "--port", "0"]
    process = subprocess.Popen(tensorboard, cwd=script.folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                break
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
    assert lines
    assert re.search(r"TensorBoard .* at http://", lines[-1])
