"""What an exported model says of itself: everything it takes to use it, in the metadata of its file."""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from utils.errors import DataError
from utils.options import Options

PREFIX = "reid."
"""Begins the names of our entries among a file's metadata."""
FORMAT = 1


class Threshold(Options):
    """A distance up to which two images are taken for one person, and what that comes to on the test set."""

    far: float = Field(ge=0.0, le=1.0)
    """False accept rate: share of pairs of two persons that are accepted."""
    tar: float = Field(ge=0.0, le=1.0)
    """True accept rate: share of pairs of one person that are accepted."""
    distance: float
    """Accept a pair whose cosine distance, 1 - cosine, is at most this."""


class ModelCard(Options):
    """The metadata of an exported model, an entry `reid.KEY` with a JSON value for each field."""

    format: Literal[1] = FORMAT
    """Version of this list."""
    img_h: int = Field(ge=1)
    """Height of the images the network sees, pixels."""
    img_w: int = Field(ge=1)
    """Their width, pixels."""
    resize: bool
    """Whether the model brings images to that size itself."""
    layout: Literal["nhwc", "nchw"]
    """Order of the uint8 pixels it takes."""
    colour_order: Literal["RGB"] = "RGB"
    """Order of their channels."""
    mean: tuple[float, float, float]
    """Per channel, of pixels in 0..1; subtracted inside the model."""
    std: tuple[float, float, float]
    """Per channel; divided by inside the model."""
    embedding_dim: int = Field(ge=1)
    """D of the embedding."""
    branch_dims: tuple[int, ...]
    """Sizes of the parts of an embedding that were learnt apart; they add up to D."""
    backbone: str
    """As model_params.model."""
    precision: Literal["fp32", "fp16", "int8"]
    """Number format of the network."""
    opset: int
    """Version of ONNX's operators."""
    num_labels: int
    """Identities it was trained on."""
    labels_sha256: str
    """Of the JSON list of their sorted pids: tells whether two models were trained on the same persons."""
    commit: str
    """Of the code that exported it, as git names it; "" where it does not lie in a checkout."""
    torch: str
    """Version of torch that exported it."""
    metrics: dict[str, float]
    """What the evaluation in training said of the network, fractions."""
    measured: dict[str, float]
    """What the exported model reached on the test set when it was exported, fractions; empty if not measured."""
    num_measured: int = Field(ge=0)
    """Test images it was measured on."""
    thresholds: tuple[Threshold, ...]
    """By falling false accept rate; empty if not measured."""
    params: dict[str, Any]
    """The run's resolved params."""

    def to_metadata(self) -> dict[str, str]:
        """Entries for the metadata of an ONNX file."""
        return {f"{PREFIX}{key}": json.dumps(value) for key, value in self.model_dump(mode="json").items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> Self | None:
        """The card in a file's metadata; None where another program wrote the file.

        Args:
            metadata: all its entries.
            where: what messages call the file.

        Raises:
            DataError: there is one that this version cannot read.
        """
        ours = {key.removeprefix(PREFIX): text for key, text in metadata.items() if key.startswith(PREFIX)}
        if not ours:
            return None
        # Said first, as all else may differ.
        if (version := ours.get("format")) != str(FORMAT):
            raise DataError(f"{where}: model card format {version}, this version reads format {FORMAT}; export it anew")
        body = ", ".join(f"{json.dumps(key)}: {text}" for key, text in ours.items())
        try:
            return cls.model_validate_json(f"{{{body}}}")
        except ValidationError as error:
            problems = "; ".join(f"{PREFIX}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise DataError(f"{where}: its model card is damaged: {problems}; export it anew") from error
