"""Every JSON file we ship is valid, and every command of the README is one we run."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from config.load import load_eval_params, load_params
from config.params import Params
from config.params_table import params_table
from engine.training import describe_training
from evaluate.core.plugins import plugin_options
from losses.criterion import build_criterion
from models.network import build_network
from tests.conftest import ROOT, Script
from train import parse_arguments

PARAMS_FILES = sorted([ROOT / "params.json", *ROOT.glob("recipes/**/*.json")])
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
    network, criterion = build_network(params.model_params, num_classes=4), build_criterion(params)
    labels = torch.tensor([0, 0, 1, 1])
    terms = criterion(network(torch.randn(4, 3, params.img_h, params.img_w)), labels)
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


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python train.py")])
def test_training_commands_of_the_readme_are_understood(
    command: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    args = parse_arguments(shlex.split(command)[2:])
    if args.operation != "resume_train":
        params, _ = load_params(args.config_path, args.set, plugin_options=plugin_options)
        assert params.epoch >= 1


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
