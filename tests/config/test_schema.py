"""The files that are generated from the options."""

import json
from pathlib import Path

import pytest

import config.schema
from config.eval_params import EvalParams
from config.params import Params
from config.schema import generated, settings_page
from config.sections import sections_of
from evaluate.core.plugins import load_plugin, plugin_names
from tests.config.conftest import MarketOptions

FOLDER = Path(config.schema.__file__).parent


def test_the_generated_files_are_current():
    plugins = {name: load_plugin(name).options for name in plugin_names()}
    outdated = [path.name for path, text in generated(plugins).items() if path.read_text(encoding="utf-8") != text]
    assert outdated == [], "run: python -m config.schema"


def test_the_page_lists_every_key_with_its_type_default_and_allowed_values():
    page = settings_page({"market_evaluate": MarketOptions}).splitlines()
    for at, model in sections_of(Params).items():
        keys = [".".join((*at, name)) for name in model.model_fields if (*at, name) not in sections_of(Params)]
        assert [key for key in keys if not any(row.startswith(f"| `{key}` |") for row in page)] == []
    cells = {row.split("`")[1]: [cell.strip() for cell in row.split(" | ")] for row in page if row.startswith("| `")}
    assert cells["lr.decay_step"][1:4] == ["integer or list of integer", "`40`", ">= 0, >= 1"]
    assert cells["lr.decay_gamma"][1:4] == ["number", "`0.1`", "> 0, <= 1"]
    assert cells["data_augmentation.random_erasing.fill"][1:4] == [
        "string", '`"mean"`', '`"mean"`, `"colour"`, `"noise"`'
    ]  # fmt: skip
    assert cells["evaluation_params.neighbours.k1"][1:4] == ["integer", "`20`", ""]
    assert cells["features_path"][1:4] == ["string", '`""`', ""]
    assert cells["batch_size"][1:4] == ["integer or null", "`null`", ">= 2"]


@pytest.mark.parametrize("model", [Params, EvalParams])
def test_every_setting_is_described_in_one_line(model):
    settings = {f"{owner.__name__}.{key}": field for owner in sections_of(model).values()
                for key, field in owner.model_fields.items()}  # fmt: skip
    assert [key for key, field in settings.items() if len((field.description or "").splitlines()) != 1] == []


@pytest.mark.parametrize(
    ("name", "content", "valid"),
    [
        ("params.schema.json", {"$schema": "a", "extends": "b", "lr": {"decay_step": [3]}}, True),
        ("params.schema.json", {"evaluation_params": {"type": "market_evaluate", "rerank": True}}, True),
        ("params.schema.json", {"lr": {"bas_lr": 3}}, False),
        ("params.schema.json", {"img_h": 1}, False),
        ("params.schema.json", {"batch_sampling_params": "32*2"}, True),
        ("params.schema.json", {"batch_sampling_params": {"P": 32, "K": 2}}, True),
        ("params.schema.json", {"batch_sampling_params": "32x2"}, False),
        ("params.schema.json", {"batch_sampling_params": "0*4"}, False),
        ("params.schema.json", {"batch_sampling_params": "32*2*1"}, False),
        ("params.schema.json", {"batch_sampling_params": {"Q": 2}}, False),
        ("eval_params.schema.json", {"model_path": "runs", "evaluation_params": {"type": "a", "b": 1}}, True),
        ("eval_params.schema.json", {"model_pth": "runs"}, False),
    ],
)  # fmt: skip
def test_the_schema_tells_valid_from_invalid(name, content, valid):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(content) is valid
