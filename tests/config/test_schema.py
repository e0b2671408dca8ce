"""The JSON schemas that editors read."""

import json
from pathlib import Path

import pytest

import config.schema
from config.schema import SCHEMAS, schema_text
from config.sections import sections_of

FOLDER = Path(config.schema.__file__).parent


@pytest.mark.parametrize(("name", "model"), list(SCHEMAS.items()))
def test_the_written_schemas_are_current(name, model):
    assert (FOLDER / name).read_text(encoding="utf-8") == schema_text(model), "run: python -m config.schema"


@pytest.mark.parametrize("model", list(SCHEMAS.values()))
def test_every_setting_is_described(model):
    settings = {f"{owner.__name__}.{key}": field for owner in sections_of(model).values()
                for key, field in owner.model_fields.items()}  # fmt: skip
    assert [key for key, field in settings.items() if not field.description] == []


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
