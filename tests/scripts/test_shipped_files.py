"""Every JSON file we ship is valid, and every command of the README is one we run."""

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

from config.load import load_eval_params, load_params
from config.params import Params
from config.params_table import params_table
from engine.outline import describe_training
from evaluate.core.plugins import plugin_options
from losses.criterion import build_criterion
from losses.distillation import TeacherOutput
from models.network import build_network
from tests.conftest import ROOT, TINY_PARAMS, Script

# The rows of the seed's tables have a test of their own, at a small size.
RECIPES = {*ROOT.glob("recipes/**/*.json")} - {*ROOT.glob("recipes/seed/*.json")}
PARAMS_FILES = sorted([ROOT / "params.json", *RECIPES])
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"```(?:bash|console)\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("path", PARAMS_FILES, ids=lambda path: path.stem)
def test_shipped_params_load_and_their_network_takes_a_step(path: Path) -> None:
    params, notes = load_params(path, plugin_options=plugin_options)
    assert notes == ()
    network = build_network(params.model_params, num_classes=4)
    criterion = build_criterion(params, embedding_dim=network.embedding_dim, teacher_dim=network.embedding_dim)
    labels = torch.tensor([0, 0, 1, 1])
    output = network(torch.randn(4, 3, params.img_h, params.img_w), spectral=True)
    teacher = TeacherOutput(torch.randn(4, network.embedding_dim), torch.randn(4, 4))
    terms, _ = criterion(output, labels, teacher=teacher)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_shipped_params_run_on_any_machine() -> None:
    params, _ = load_params(ROOT / "params.json", plugin_options=plugin_options)
    assert params.batches_dir == "synthetic"
    assert params.working_dir == "runs"
    assert params.parallels == ()
    assert not params.imagenet_pretrain
    assert params.evaluation_params.type == "market_evaluate"


def test_shipped_eval_params_evaluate_what_the_shipped_params_train() -> None:
    params, _ = load_eval_params(ROOT / "eval_params.json", plugin_options=plugin_options)
    assert params.model_path == Params().working_dir
    assert params.batches_dir is None


def test_all_json_files_are_covered() -> None:
    shipped = {path for path in ROOT.glob("*.json") if path.name != "eval_result.json"}
    assert shipped == {ROOT / "params.json", ROOT / "eval_params.json"}


def test_the_readme_has_commands() -> None:
    assert "make train" in COMMANDS
    assert "make test" in COMMANDS
    assert sum("train.py" in command for command in COMMANDS) >= 5


def test_the_commands_of_the_readme_run_in_their_order(script: Script, make_market: Callable[[Path], Path]) -> None:
    """With a tiny data set in place of the shipped one, everything else as the README says."""
    market = make_market(script.folder / "datasets" / "Market-1501")
    make_classes(script.folder / "datasets" / "classes", market / "bounding_box_train")
    small = {"train_identities": 6, "test_identities": 2, "distractors": 0, "junk": 0, "cameras": 2}
    model = {**TINY_PARAMS["model_params"], "spectral_trans": 0}
    generator = {"epoch": 1, "ngf": 4, "ndf": 4, "batch_size": 4, "num_measured": 8}
    # Three epochs, as one of the commands lets generated images in after two.
    market_params = {"batches_dir": "datasets/Market-1501", "synthetic": small, "model_params": model}
    script.write_params(**market_params, gan_params=generator, epoch=3)
    shutil.copytree(ROOT / "recipes", script.folder / "recipes")
    shutil.copy(ROOT / "eval_params.json", script.folder)
    recipes = script.folder / "recipes"
    single = {"pcb_n_parts": 0, "feature_global_dim": 0, "random_drop_branches": 0, "feature_dim": 16}
    change(recipes / "single_feature.json", {"model_params": single})
    # A later command evaluates on "synthetic", which is then that of the newest run.
    tiny = {"imagenet_pretrain": False, "model_params": {}, "epoch": 1, "synthetic": small}
    change(recipes / "seed/_market1501.json", tiny)
    smaller = {"model_params": {"model": "resnet_18"}, "batch_sampling_params": "4*2", "lr": {"warmup_epoch": 0}}
    change(recipes / "seed/pcb6_global_gtri016_rb6.json", smaller)
    commands = [command for command in COMMANDS if re.match(r"(python|torchrun .*) (\w+\.py|-m deploy)", command)]
    for command in commands:
        if command.startswith("python -m"):
            run_module(script, *shlex.split(command)[2:])
            continue
        launcher, name, arguments = re.fullmatch(r"(python|torchrun .*?) (\w+\.py)(.*)", command).groups()  # pyright: ignore[reportOptionalMemberAccess]
        arguments = shlex.split(arguments)
        process = script.run(name, *arguments, launcher=shlex.split(launcher)[1:])
        if "resume_train" in arguments:
            # Here nobody has stopped the run, and the message says so.
            assert process.returncode == 2
            assert "is finished" in process.stderr
        else:
            assert process.returncode == 0, f"{command}\n{process.stderr}"
        if "--detach" in arguments:
            wait_for(script.folder / "runs" / "second" / "train_log", "finished")
    assert len(commands) >= 8
    for written in (
        "pictures/rank_list.png",
        "features.npz",
        "report.html",
        "classes.html",
        "persons/grid.png",
        "pedestrians.npz",
    ):
        assert (script.folder / written).is_file()


def run_module(script: Script, module: str, *arguments: str) -> None:
    """The command of a module, from our folder's code; a server is left running until it answers."""
    # Of a server, at any port that is free.
    port = ["--port", "0"] if module == "deploy.serve" else []
    command = [sys.executable, "-W", "error", "-m", module, *arguments, *port]
    environment = {**script.environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=script.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if module != "deploy.serve":
            messages = process.stderr.read()
            assert process.wait() == 0, messages
            return
        lines = []
        for line in process.stderr:
            lines.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                with urllib.request.urlopen(f"{address[0]}/health") as answer:
                    assert json.load(answer)["status"] == "ok"
                process.send_signal(signal.SIGINT)
                break
        messages = "".join(lines) + process.stderr.read()
        assert process.wait() == 130, messages


def change(recipe: Path, settings: dict[str, object]) -> None:
    """Give a copy of a recipe other settings, so that it trains in seconds."""
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), **settings}))


def make_classes(folder: Path, images: Path) -> None:
    """Two classes with a few images each, for the commands that classify."""
    for place, image in enumerate(sorted(images.iterdir())):
        split = folder / ("val" if place % 5 == 0 else "train") / ("odd" if place % 2 else "even")
        split.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, split)


def wait_for(log: Path, text: str) -> None:
    """Wait until a background run has said something."""
    deadline = time.monotonic() + 120
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_tensorboard_command_serves_the_runs(script: Script) -> None:
    command = next(command for command in COMMANDS if command.startswith("tensorboard"))
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


@pytest.mark.parametrize("target", ["train", "test", "test-all"])
def test_make_targets_of_the_readme_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_readme_documents_every_setting() -> None:
    table = params_table(plugin_options("market_evaluate"))
    assert table in README, f"the README's table of settings should read:\n{table}"


def test_describing_a_run_needs_no_memory() -> None:
    from data.samples import Sample

    train = [Sample(Path("x.jpg"), pid, 1) for pid in range(1, 40) for _ in range(4)]
    params, _ = load_params(ROOT / "params.json", plugin_options=plugin_options)
    assert "39 identities" in describe_training(params, train)
