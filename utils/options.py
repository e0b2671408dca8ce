"""The base class of every section of params.json."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Immutable, typed settings: unknown keys, wrong types, NaN and infinity are errors.

    Each field carries a one-line docstring; it becomes the description in the editors' JSON schema.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # "model_params" is a documented key of params.json, whatever names pydantic keeps for itself.
        protected_namespaces=(),
    )
