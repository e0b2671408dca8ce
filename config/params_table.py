"""The settings as a markdown table, for the README."""

import json
from collections.abc import Iterator
from typing import get_args

from config.evaluation import EvaluationParams
from config.params import Params
from utils.options import Options


def params_table(evaluation: type[EvaluationParams]) -> str:
    """One row per key of params.json with its default and its doc; `evaluation` is the plug-in whose keys are shown."""
    rows = (f"| `{key}` | `{default}` | {doc} |" for key, default, doc in _rows(Params, "", evaluation))
    return "\n".join(("| key | default | meaning |", "|---|---|---|", *rows))


def _rows(section: type[Options], prefix: str, evaluation: type[EvaluationParams]) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        inner = evaluation if name == "evaluation_params" else _section(field.annotation)
        if inner is None:
            default = json.dumps(field.get_default(call_default_factory=True, validated_data={}))
            yield f"{prefix}{name}", default, str(field.description)
        else:
            yield from _rows(inner, f"{prefix}{name}.", evaluation)


def _section(annotation: object) -> type[Options] | None:
    """The options class a field holds, if it holds one."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Options):
            return kind
    return None
