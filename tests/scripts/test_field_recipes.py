"""The recipes of recipes/field and recipes/real_pictures at their full size, and what their READMEs say of them."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, Script

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
