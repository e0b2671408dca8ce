"""A model folder for the Hugging Face hub, and fetching one from there."""

import hashlib
import json
from pathlib import Path
from typing import Any

from utils.checkpoint import HUB_WEIGHTS, model_in
from utils.errors import DataError, first_line, optional_imports
from utils.files import expand_user

CONFIG = "config.json"
"""Beside the weights: settings, labels, metrics, and the hashes of the folder's files."""
HASHES = "sha256"
"""In it: the SHA-256 of each file by its name."""
PREFIX = "hf://"
"""Of a repository on the hub: "hf://owner/name" or "hf://owner/name@revision"."""


def read_config(weights: Path) -> dict[str, Any]:
    """The content of config.json beside a file of weights.

    Raises:
        DataError: there is none, or it was not written by export_hub.
    """
    path = weights.with_name(CONFIG)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}; {weights.name} needs it beside it") from error
    hashes = content.get(HASHES) if isinstance(content, dict) else None
    if not isinstance(hashes, dict) or weights.name not in hashes:
        raise DataError(f"{path}: not written by export_hub: it has no {HASHES} of {weights.name}")
    return content


def check_digest(weights: Path, config: dict[str, Any]) -> None:
    """Raise a DataError if a file of weights does not have the hash in `config`."""
    found, expected = digest_of_file(weights), config[HASHES][weights.name]
    if found != expected:
        text = f"its SHA-256 begins with {found[:12]}, {CONFIG} says {str(expected)[:12]}"
        raise DataError(f"{weights}: not the file that was exported ({text}); fetch or export the folder again")


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def model_file(named: Path | str) -> Path:
    """The file of a model: itself, that of a run's or hub folder, or that of a repository on the hub.

    Raises:
        DataError: a repository cannot be fetched.
    """
    path = fetch(named) if isinstance(named, str) and named.startswith(PREFIX) else expand_user(named)
    return model_in(path) or path


def fetch(source: str) -> Path:
    """The folder of a repository on the hub, of which the model is downloaded once.

    Args:
        source: "hf://owner/name" or "hf://owner/name@revision".

    Raises:
        DataError: it cannot be fetched, or has no model.
    """
    with optional_imports(source, "pip install huggingface_hub"):
        from huggingface_hub import snapshot_download
    repository, _, revision = source.removeprefix(PREFIX).partition("@")
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=[CONFIG, HUB_WEIGHTS])
    # It raises errors of its own, of its HTTP library and of the system.
    except Exception as error:
        raise DataError(f"{source}: cannot be fetched: {first_line(error)}") from error
    if model_in(Path(folder)) is None:
        raise DataError(f"{source}: this repository has no {HUB_WEIGHTS}; export a model for it with export_hub")
    return Path(folder)
