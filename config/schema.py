"""JSON schemas of the params files, for completion and checks in editors: python -m config.schema."""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.load import NOTATION, OPERATION, SAMPLING, SCHEMA
from config.params import Params
from utils.options import Options

SCHEMAS: dict[str, type[Options]] = {"params.schema.json": Params, "eval_params.schema.json": EvalParams}
_FILE_KEYS = {
    SCHEMA: {"type": "string", "description": "Where an editor finds this schema; nothing else reads it."},
    OPERATION: {"type": "string", "description": "In a run's folder: the operation it was begun with."},
    "extends": {"type": "string", "description": "Another params file, relative to this one, that this one changes."},
}


class _Untitled(GenerateJsonSchema):
    """A schema without titles, which would only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text(model: type[Options]) -> str:
    """The schema of a params file in the order of its fields, as it stands in its file."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    definitions = schema.pop("$defs")
    # A plug-in's own keys are known only once its name is.
    definitions[EvaluationParams.__name__]["additionalProperties"] = True
    for section in (schema, *definitions.values()):
        section.pop("title", None)
    if SAMPLING in schema["properties"]:
        sampling = schema["properties"][SAMPLING]
        sampling["anyOf"] = [{"$ref": sampling.pop("$ref")}, {"type": "string", "pattern": f"^{NOTATION}$"}]
    schema["properties"] = _FILE_KEYS | schema["properties"]
    whole = {"$schema": GenerateJsonSchema.schema_dialect, **schema, "$defs": definitions}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the schemas beside this file."""
    for name, model in SCHEMAS.items():
        Path(__file__).with_name(name).write_text(schema_text(model), encoding="utf-8")


if __name__ == "__main__":
    main()
