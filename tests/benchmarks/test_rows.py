import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import Row, flattened, in_words, named_runs, read_rows, resolved
from utils.errors import ParamsError


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, **content: Any) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_a_row_is_compared_with_the_recipe_it_extends(write: Any) -> None:
    recipes = [
        write("plain", model_params={"part_bn": False, "pcb_n_parts": 4}),
        write("bn", extends="plain.json", model_params={"part_bn": True}),
        write("adam", extends="bn.json", optimizer="adam", lr={"base_lr": 0.00035, "decay_step": [4, 5]}, seed=5),
    ]
    rows = read_rows(recipes, ["epoch=3"])
    assert [(row.name, row.parent) for row in rows] == [("plain", ""), ("bn", "plain"), ("adam", "bn")]
    assert rows[0].changes == {}
    assert rows[1].changes == {"model_params.part_bn": (False, True)}
    assert rows[2].changes == {
        "optimizer": ("sgd", "adam"),
        "lr.base_lr": (0.01, 0.00035),
        "lr.decay_step": (40, [4, 5]),
    }
    words = [in_words(row) for row in rows]
    assert words == ["", "part_bn on", "optimizer sgd → adam, base_lr 0.01 → 0.00035, decay_step 40 → [4, 5]"]


def test_a_parent_that_is_no_row_is_not_compared_with(write: Any) -> None:
    write("base")
    rows = read_rows([write("other", epoch=2), write("row", extends="base.json", epoch=3)], [])
    assert [(row.parent, row.changes) for row in rows] == [("", {}), ("", {})]


def test_a_teacher_is_shown_by_its_recipe() -> None:
    changes = {"distillation.teacher": ("", "runs/ablation/14_triplet_seed0"), "distillation.temperature": (4.0, 2.0)}
    assert in_words(Row(Path("x.json"), "y", changes)) == "teacher 14_triplet, temperature 4 → 2"


def test_recipes_of_one_name_are_refused(write: Any, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    with pytest.raises(ParamsError, match="several recipes are called a;"):
        read_rows([write("a"), write("b"), write("deeper/a")], [])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("runs/ablation/big_seed0", ("big", "")),
        ("big_seed12", ("big", "")),
        ("/elsewhere/big_seed0/model_best.pth", ("big", "/model_best.pth")),
        ("runs/ablation/small_seed0", None),
        ("runs/ablation/big", None),
        ("runs/big_seed0/other", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("key", ["distillation.teacher", "pretrain_snapshot"])
def test_only_runs_of_the_other_recipes_are_found(key: str, value: str, found: tuple[str, str] | None) -> None:
    section, _, name = key.rpartition(".")
    params: dict[str, Any] = {"distillation": {"teacher": ""}, "pretrain_snapshot": ""}
    (params[section] if section else params)[name] = value
    assert named_runs(params, ["big", "medium"]) == ({key: found} if found else {})


def test_all_settings_of_a_recipe_have_their_dotted_names(write: Any) -> None:
    flat = flattened(resolved(write("a", img_h=96, lr={"fc_lr": 0.5}), []))
    assert flat["img_h"] == 96
    assert flat["lr.fc_lr"] == 0.5
    assert flat["data_augmentation.random_erasing.probability"] == 0.0
