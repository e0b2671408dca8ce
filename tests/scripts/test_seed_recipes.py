"""Every recipe of recipes/seed/ is valid, changes little, is in the README, and its network takes a training step."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from config.load import load_params
from config.params import Params
from engine.optim import build_optimizer
from evaluate.core.plugins import plugin_options
from losses.criterion import build_criterion
from losses.loss import TeacherOutput
from models.network import build_network
from tests.conftest import ROOT

FOLDER = ROOT / "recipes" / "seed"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
FILES = sorted(FOLDER.glob("*.json"))
RECIPES = [path for path in FILES if not path.name.startswith("_")]
# The rows of the three tables, cell by cell.
TABLE_ROWS = [
    [cell.strip() for cell in line.replace("\\*", "*").split("|")[1:-1]]
    for line in README.splitlines()
    if re.match(r"\| \d+\\\*128 ", line)
]
NUM_CLASSES = 4
TEACHER_DIM = 8
MARKET_IDENTITIES = 751
# What a step of a few small images needs: one row of the feature map in each stripe, or enough for a band to erase.
ROWS = 1
ROWS_TO_ERASE = 4
ROWS_WITHOUT_STRIPES = 2


def load(path: Path, *overrides: str) -> Params:
    params, notes = load_params(path, overrides, plugin_options=plugin_options)
    assert notes == ()
    return params


def load_small(path: Path) -> Params:
    """The recipe with a small network and few small images; K, stripes, strides, heads and losses as they are."""
    params = load(path)
    model, K = params.model_params, params.batch_sampling_params.K
    rows = ROWS_WITHOUT_STRIPES
    if model.pcb_n_parts:
        rows = model.pcb_n_parts * (ROWS_TO_ERASE if model.part_feature_erasing else ROWS)
    return load(
        path,
        "model_params.model=resnet_18",
        f"batch_sampling_params={'6*1' if K == 1 else f'3*{K}'}",
        f"img_h={16 * model.last_conv_stride * rows}",
        f"img_w={16 * model.last_conv_stride}",
        'pretrain_snapshot=""',
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_describes_a_network_for_market_1501(path: Path) -> None:
    params = load(path)
    with torch.device("meta"):
        network = build_network(params.model_params, MARKET_IDENTITIES)
    assert {layer.get_parameter("weight").shape[-1] for layer in network.classifiers()} == {MARKET_IDENTITIES}
    assert params.batches_dir == "datasets/Market-1501"
    assert params.lr.decay_unit == "epoch"
    assert params.imagenet_pretrain
    # On a GPU an evaluation of Market-1501 may take half as long as an epoch.
    assert params.evaluation_params.every_epochs == 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_a_training_step(path: Path) -> None:
    params = load_small(path)
    torch.manual_seed(0)
    model, sampling = params.model_params, params.batch_sampling_params
    network = build_network(model, NUM_CLASSES)
    teacher_dim = TEACHER_DIM if params.distillation.teacher else 0
    criterion = build_criterion(params, model, sizes=network.sizes, teacher_dim=teacher_dim)
    optimizer = build_optimizer(params, network, criterion)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    images = torch.randn(params.batch_images, 3, params.img_h, params.img_w)
    labels = torch.arange(sampling.P).repeat_interleave(sampling.K) % NUM_CLASSES
    teacher = TeacherOutput(torch.randn(len(labels), TEACHER_DIM), torch.randn(len(labels), NUM_CLASSES))

    output = network.train()(images, spectral=model.spectral_trans > 0)
    taught = teacher if params.distillation.teacher else None
    losses = criterion(output, labels, teacher=taught, updated_parts=criterion.draw_parts(0))
    torch.stack(list(losses.losses.values())).sum().backward()
    optimizer.step()

    assert set(losses.losses) == expected_terms(params)
    assert all(term.isfinite() and term > 0 for term in losses.losses.values())
    # Neither zero nor NaN nor infinite.
    assert all(p.grad is not None and 0 < p.grad.norm() < torch.inf for p in trained)
    assert all(0 < (p.detach() - old).norm() < torch.inf for p, old in zip(trained, before, strict=True))


def expected_terms(params: Params) -> set[str]:
    """The names of the losses that the recipe asks for."""
    model = params.model_params
    branches = ["parts"] if model.pcb_n_parts else ["global"]
    if model.feature_global_dim:
        branches.append("global")
    terms = {f"softmax_{branch}" for branch in branches}
    if model.spectral_trans:
        terms |= {f"softmax_{branch}_spectral" for branch in branches}
    if params.tri_loss_margin:
        terms |= {f"triplet_{feature}" for feature in params.tri_loss_on}
    if params.distillation.teacher:
        terms.add("distillation_logits")
    return terms


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_few_changes_of_another(path: Path) -> None:
    recipe = json.loads(path.read_text(encoding="utf-8"))
    assert (FOLDER / recipe.pop("extends")).is_file()
    assert 1 <= num_settings(recipe) <= 6


def num_settings(tree: dict[str, Any]) -> int:
    return sum(num_settings(value) if isinstance(value, dict) else 1 for value in tree.values())


@pytest.mark.parametrize("row", TABLE_ROWS, ids=lambda row: row[5].strip("`").removesuffix(".json"))
def test_a_recipe_is_what_the_columns_of_its_row_say(row: list[str]) -> None:
    size, parts, augmentation, batch, comments, name, *_ = row
    params = load(FOLDER / name.strip("`"))
    model, sampling = params.model_params, params.batch_sampling_params
    # Where they differ, the comment is right and the column was not updated.
    P, K = re.findall(r"(\d+)X(\d+)", comments)[0] if "X" in comments else batch.split("*")
    assert size == f"{params.img_h}*{params.img_w}"
    assert parts in (
        f"{model.feature_dim or 256}*1",
        f"{model.feature_dim}/{model.pcb_n_parts}",
        f"{model.feature_dim}+{model.feature_global_dim}",
    )
    assert params.data_augmentation.mirror
    assert augmentation == ("mirro,RE" if params.data_augmentation.random_erasing.probability else "mirro")
    assert (sampling.P, sampling.K, sampling.class_balanced) == (int(P), int(K), K != "1")
    assert params.batch_images == int(P) * int(K)


def test_no_two_recipes_are_the_same() -> None:
    names = defaultdict(list)
    for path in RECIPES:
        names[load(path).model_dump_json()].append(path.name)
    assert [same for same in names.values() if len(same) > 1] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_runs_that_a_recipe_builds_on_have_recipes(path: Path) -> None:
    params = load(path)
    needed = [name for name in (params.pretrain_snapshot, params.distillation.teacher) if name]
    for name in needed:
        run = re.fullmatch(r"runs/(\w+)/model_best\.pth", name)
        assert run is not None
        assert (FOLDER / f"{run[1]}.json") in RECIPES
        assert f"{run[1]}.json --sub_working_dir {run[1]}\n" in README


def test_the_readme_names_every_file_and_has_one_row_for_each_recipe() -> None:
    assert set(re.findall(r"`([\w.-]+\.json)`", README)) == {path.name for path in FILES}
    rows = re.findall(r"^\| .*?\| `([\w.-]+\.json)` \|", README, flags=re.MULTILINE)
    assert len(TABLE_ROWS) == 63
    assert sorted(rows) == [path.name for path in RECIPES]
