"""The recipes of recipes/field and recipes/real_pictures at their full size, and what their READMEs say of them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from config.load import load_params
from evaluate.core.plugins import plugin_options
from tests.conftest import ROOT, Script

TRANSFER = sorted(ROOT.glob("recipes/transfer/*.json"))
FIELD = sorted(ROOT.glob("recipes/field/*.json"))
README = (ROOT / "recipes/field/README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough identities for the batches of all recipes."""
    folder = tmp_path_factory.mktemp("market")
    for split, images in (("bounding_box_train", 4), ("query", 1), ("bounding_box_test", 1)):
        (folder / split).mkdir()
        for pid in range(1, 21):
            for image in range(images):
                name = f"{pid:04d}_c{image + 1 + (split == 'query')}s1_000001_00.png"
                Image.new("RGB", (16, 32), (pid, 0, 0)).save(folder / split / name)
    return folder


@pytest.mark.parametrize("path", FIELD, ids=lambda path: path.stem)
def test_a_recipe_of_the_field_is_checked_at_full_size(path: Path, script: Script, market: Path) -> None:
    # Weights would be downloaded, and so few images make fewer steps than the recipes warm up or freeze.
    settings = [f"batches_dir={market}", "imagenet_pretrain=false", "lr.warmup_steps=0", "lr.freeze_backbone_steps=0"]
    settings.append("pretrain_snapshot=")
    arguments = ["--operation", "check_config", "--config_path", str(path), "--set", *settings]
    shown = script.succeed("train.py", *arguments)
    assert re.search(r"\d+ epochs of \d+ steps of (64|48) images; 20 identities", shown.stdout + shown.stderr)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == "4_two_sources" else pytest.mark.slow) for path in TRANSFER],
    ids=lambda path: path.stem,
)
def test_a_transfer_trains_on_some_data_sets_and_is_tested_on_another(
    path: Path, script: Script, market: Path, tmp_path: Path
) -> None:
    sources = load_params(path, plugin_options=plugin_options).params.sources
    folders = [tmp_path / name for name in ("first", "second")[: len(sources)]]
    for folder in folders:
        shutil.copytree(market, folder)
    settings = [f"batches_dir={json.dumps([*map(str, folders)])}", f'test_dirs=["{market}"]', "imagenet_pretrain=false"]
    settings += ["lr.warmup_steps=0", "lr.freeze_backbone_steps=0", "pretrain_snapshot="]
    arguments = ["--operation", "check_config", "--config_path", str(path), "--set", *settings]
    shown = script.succeed("train.py", *arguments).stderr
    assert f"{20 * len(folders)} identities" in shown
    *_, tested, _ = re.findall(r"^train +(\d+)", shown, re.MULTILINE)
    assert tested == "0"


def test_the_readme_tabulates_every_transfer() -> None:
    readme = (ROOT / "recipes/transfer/README.md").read_text(encoding="utf-8")
    assert [path.name for path in TRANSFER] == re.findall(r"^\| `([^`]+)`", readme, re.MULTILINE)


def test_the_readme_tabulates_every_recipe_of_the_field() -> None:
    assert re.findall(r"^\| `([^`]+)`", README, re.MULTILINE) == [
        "bot.json",
        "agw.json",
        "sbs.json",
        "mgn.json",
        "lightmbn.json",
        "osnet.json",
        "osnet_ain.json",
        "mobilenet.json",
        "efficientnet_lite.json",
        "vit_baseline.json",
        "transreid.json",
        "transreid_small.json",
        "swin_solider.json",
        "clipreid_baseline.json",
    ]
    assert {path.name for path in FIELD} == {*re.findall(r"^\| `([^`]+)`", README, re.MULTILINE)}
