"""The files generated from the options: JSON schemas for editors and docs/settings.md. python -m config.schema"""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from config.eval_params import EvalParams
from config.evaluation import EvaluationParams
from config.load import NOTATION, OPERATION, SAMPLING, SCHEMA
from config.params import Params
from config.validation import EVALUATION
from utils.options import Options

ROOT = Path(__file__).resolve().parent.parent
FILE_KEYS = {
    SCHEMA: {"type": "string", "description": "Where an editor finds this schema; nothing else reads it."},
    OPERATION: {"type": "string", "description": "In a run's folder: the operation that started the run."},
    "extends": {"type": "string", "description": "Another params file, relative to this one, that this one changes."},
}
PAGE = """# Settings

Every key of `params.json` and of `eval_params.json`. A file contains only the keys that differ from their defaults;
[training.md](training.md#settings) describes overrides, `"extends"` and files of the predecessor.

This page is generated from the options in the code: `python -m config.schema` writes it.
"""
LIMITS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}
Schema = dict[str, Any]
Plugins = Mapping[str, type[EvaluationParams]]
"""The options class of each evaluation plug-in by its name."""


class _Untitled(GenerateJsonSchema):
    """A schema without titles, which would only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def generated(plugins: Plugins) -> dict[Path, str]:
    """Every generated file and its text."""
    return {
        ROOT / "config" / "params.schema.json": schema_text(Params),
        ROOT / "config" / "eval_params.schema.json": schema_text(EvalParams),
        ROOT / "docs" / "settings.md": settings_page(plugins),
    }


def schema_text(model: type[Options]) -> str:
    """The JSON schema of a params file, its keys in the order of the fields."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    definitions = schema.pop("$defs")
    # A plug-in's own keys are known only once its name is.
    definitions[EvaluationParams.__name__]["additionalProperties"] = True
    for section in (schema, *definitions.values()):
        section.pop("title", None)
    if SAMPLING in schema["properties"]:
        sampling = schema["properties"][SAMPLING]
        sampling["anyOf"] = [{"$ref": sampling.pop("$ref")}, {"type": "string", "pattern": f"^{NOTATION}$"}]
    schema["properties"] = FILE_KEYS | schema["properties"]
    whole = {"$schema": GenerateJsonSchema.schema_dialect, **schema, "$defs": definitions}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def settings_page(plugins: Plugins) -> str:
    """docs/settings.md: a table for each section, then for each plug-in's own keys and for eval_params.json."""
    parts = [PAGE, *_section(Params, "params.json", "")]
    shown: list[type[EvaluationParams]] = [EvaluationParams]
    for name, options in plugins.items():
        # A plug-in whose options extend those of another one has only its further keys listed.
        known = max((other for other in shown if issubclass(options, other)), key=lambda other: len(other.model_fields))
        parts += _section(options, f"{EVALUATION} of {name}", f"{EVALUATION}.", known.model_fields)
        shown.append(options)
    parts += _section(EvalParams, "eval_params.json", "", (EVALUATION,))
    return "\n".join(parts)


def _section(model: type[Options], title: str, prefix: str, without: Any = ()) -> Iterator[str]:
    """The table of one section, then those of the sections in it."""
    schema = model.model_json_schema(schema_generator=_Untitled)
    rows, inner = [], []
    for name, field in model.model_fields.items():
        entry = schema["properties"][name]
        section = schema.get("$defs", {}).get(entry.get("$ref", "").rpartition("/")[2])
        if name in without:
            continue
        if section:
            inner.append(_section(type(field.default), prefix + name, f"{prefix}{name}."))
        else:
            default = json.dumps(entry.get("default"))
            cells = (f"`{prefix}{name}`", _type(entry), f"`{default}`", _allowed(entry), str(field.description))
            rows.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    yield f"## {title}\n\n{inspect.getdoc(model)}\n"
    yield "| key | type | default | allowed | meaning |\n|---|---|---|---|---|"
    yield "".join(f"| {row} |\n" for row in rows)
    for section in inner:
        yield from section


def _type(entry: Schema) -> str:
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(member) for member in entry["anyOf"]))
    if entry.get("type") == "array":
        return f"list of {_type(_items(entry)[0])}"
    return str(entry.get("type", "any"))


def _items(entry: Schema) -> list[Schema]:
    """The schema of a list's entries, in a list of one; empty where `entry` is no list."""
    return [entry["items"]] if "items" in entry else entry.get("prefixItems", [])[:1]


def _allowed(entry: Schema) -> str:
    """Allowed values in words; empty where the type allows everything."""
    inner = [*entry.get("anyOf", ()), *_items(entry)]
    words = [f"`{json.dumps(value)}`" for value in entry.get("enum", [entry["const"]] if "const" in entry else [])]
    words += [f"{sign} {entry[limit]:.10g}" for limit, sign in LIMITS.items() if limit in entry]
    return ", ".join(dict.fromkeys([*words, *filter(None, map(_allowed, inner))]))


def _plugins() -> Plugins:
    """The plug-ins in evaluate/, which lies above this package; only this command looks there."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(ROOT / "evaluate")]) if not module.ispkg)
    modules = {name: importlib.import_module(f"evaluate.{name}") for name in names}
    return {name: getattr(module, "Options", EvaluationParams) for name, module in modules.items()}


def main() -> None:
    """Write the generated files."""
    for path, text in generated(_plugins()).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
