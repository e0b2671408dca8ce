import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.ablation import Recipe, read_recipes
from benchmarks.real_pictures import close_ones, main, parse_arguments, plan_one
from models.backbones.resnet import ResNet
from tests.conftest import ROOT, Script
from utils.errors import DataError


def test_a_recipe_starts_from_the_weights_of_its_backbone(tmp_path: Path) -> None:
    for model in ("resnet_18", "resnet_34"):
        (tmp_path / f"{model}.json").write_text(
            json.dumps({"model_params": {"model": model}, "imagenet_pretrain": True})
        )
    args = parse_arguments(["data", "--weights", "resnet_18=folder/a=b.pth", "--out", "out"])
    recipes = read_recipes(sorted(tmp_path.glob("*.json")), [])
    given, downloaded = (plan_one(recipe, 1, recipes, args).settings for recipe in recipes)
    assert given[:3] == ("batches_dir=data", "imagenet_pretrain=false", "pretrain_snapshot=folder/a=b.pth")
    assert downloaded == ("batches_dir=data", "working_dir=runs/real_pictures", "seed=1")


def test_what_is_close_to_the_recipe_it_extends_is_repeated_with_it() -> None:
    parents = {"base": "", "close": "base", "far": "base", "close to far": "far", "alone": ""}
    recipes = [Recipe(Path(f"{name}.json"), parent, "") for name, parent in parents.items()]
    mean_aps = {"base": 0.5, "close": 0.519, "far": 0.521, "close to far": 0.525, "alone": 0.5}
    results = {name: [{"mAP": mean_ap - 0.1}, {"mAP": mean_ap + 0.1}] for name, mean_ap in mean_aps.items()}
    assert [recipe.name for recipe in close_ones(recipes, results)] == ["base", "close", "far", "close to far"]
    del results["close to far"]
    assert [recipe.name for recipe in close_ones(recipes[:3], results)] == ["base", "close"]


@pytest.mark.parametrize("wrong", [["other"], ["--weights", "resnet_18"], ["--jobs", "0"]])
def test_mistakes_of_the_command_line_are_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["data", *wrong, "--out", "out"])
    assert wrong[-1] in capsys.readouterr().err


def test_a_group_without_recipes_is_refused(tmp_path: Path) -> None:
    args = ["data", "mobile", "--recipes", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="mobile: no recipes"):
        main(args)


@pytest.mark.slow
def test_the_command_trains_and_evaluates_elsewhere(script: Script, make_market: Callable[[Path], Path]) -> None:
    data, other = make_market(script.folder / "market"), make_market(script.folder / "other")
    recipes, runs, out = script.folder / "recipes", script.folder / "runs", script.folder / "results" / "tiny"
    (recipes / "methods").mkdir(parents=True)
    base = json.loads(script.write_params("base.json", epoch=1).read_text())
    (recipes / "methods" / "base.json").write_text(json.dumps(base))
    changed = {"extends": "base.json", "label_smoothing": 0.1}
    (recipes / "methods" / "changed.json").write_text(json.dumps(changed))
    weights = script.folder / "resnet18.pth"
    torch.save(ResNet("resnet_18", 2).state_dict(), weights)
    command = [sys.executable, "-m", "benchmarks.real_pictures", str(data), "methods", "--recipes", str(recipes)]
    command += ["--weights", f"resnet_18={weights}", "--other", str(other), "--working_dir", str(runs)]
    command += ["--out", str(out), "--seeds", "1", "--jobs", "2"]
    process = subprocess.run(command, cwd=ROOT, env=script.environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count(f"loaded from {weights}") == 2
    (rows,) = json.loads(out.with_suffix(".json").read_text())["tables"].values()
    assert [(row["recipe"], row["extends"]) for row in rows] == [("base", ""), ("changed", "base")]
    for row in rows:
        elsewhere = json.loads((runs / f"{row['recipe']}_seed1" / "elsewhere.json").read_text())
        assert row["mAP elsewhere"] == [100 * elsewhere["metrics"]["mAP"]]
        assert elsewhere["data_set"] == str(other)
        assert 11 < row["million parameters"] < 12
    assert out.with_name("tiny_methods.png").stat().st_size > 0
