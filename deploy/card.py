"""The model card: everything needed to use an exported model, in the metadata of its file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from config.params import ProfileName
from data.decoding import Interpolation
from utils.errors import DataError
from utils.hub import CONFIG, read_config
from utils.options import Options

PREFIX = "reid."
"""Prefix of our entries among a file's metadata."""
FORMAT = 1


class Threshold(Options):
    """A distance up to which two images are taken for one person, and the error rates it has on the test set."""

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
    profile: ProfileName = "ours"
    """The value of export_params.profile; older files do not have it. Others take floats and return no lengths."""
    img_h: int = Field(ge=1)
    """Height of the network's images, pixels."""
    img_w: int = Field(ge=1)
    """Their width, pixels."""
    resize: bool
    """Whether the model resizes images to that size itself."""
    layout: Literal["nhwc", "nchw"]
    """Layout of the pixels it takes."""
    colour_order: Literal["RGB"] = "RGB"
    """Order of the channels."""
    mean: tuple[float, float, float]
    """Per channel, of pixels in 0..1; subtracted inside the model."""
    std: tuple[float, float, float]
    """Per channel; divided by inside the model."""
    interpolation: Interpolation = "bilinear"
    """With which images are resized, with antialiasing, inside the model or before it; older files do not have it."""
    embedding_dim: int = Field(ge=1)
    """D, size of an embedding."""
    branch_dims: tuple[int, ...]
    """Sizes of the parts of an embedding that have losses of their own; they add up to D."""
    backbone: str
    """The value of model_params.model."""
    precision: Literal["fp32", "fp16", "int8"]
    """Number format of the network."""
    opset: int
    """Version of the ONNX operators."""
    num_labels: int
    """Number of identities it was trained on."""
    labels_sha256: str
    """Of the JSON list of their sorted pids: equal for models trained on the same persons."""
    commit: str
    """git commit of the exporting code; "" outside a checkout."""
    torch: str
    """Version of torch at export."""
    metrics: dict[str, float]
    """Metrics of the evaluation in training, fractions."""
    measured: dict[str, float]
    """Metrics of the exported model on the test set, fractions; empty if not measured."""
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
        """The card in a file's metadata; None if another program wrote the file.

        Args:
            metadata: all its entries.
            where: the file's name in messages.

        Raises:
            DataError: there is a card that this version cannot read.
        """
        ours = {key.removeprefix(PREFIX): text for key, text in metadata.items() if key.startswith(PREFIX)}
        if not ours:
            return None
        # Checked first, as another format may differ in everything else.
        if (version := ours.get("format")) != str(FORMAT):
            raise DataError(
                f"{where}: model card format {version}, this version reads format {FORMAT}; export it again"
            )
        body = ", ".join(f"{json.dumps(key)}: {text}" for key, text in ours.items())
        try:
            return cls.model_validate_json(f"{{{body}}}")
        except ValidationError as error:
            problems = "; ".join(f"{PREFIX}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise DataError(f"{where}: its model card is damaged: {problems}; export it again") from error


def card_of_hub(weights: Path) -> ModelCard | None:
    """The card in the config.json of a hub folder; raises like `ModelCard.from_metadata`."""
    config = read_config(weights)
    metadata = {f"{PREFIX}{key}": json.dumps(config[key]) for key in ModelCard.model_fields if key in config}
    return ModelCard.from_metadata(metadata, str(weights.with_name(CONFIG)))
