"""OpenVINO's files, an .xml with its .bin: from an ONNX graph, and run."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx

from deploy.card import PREFIX, ModelCard
from deploy.networks import ExportedNetwork
from utils.errors import DataError, first_line, optional_imports
from utils.hub import digest_of_file
from utils.process import num_own_cpus

with optional_imports("OpenVINO", "pip install openvino"):
    import openvino

INFO, CARD, WEIGHTS = "rt_info", "person_reid", "weights_sha256"
"""Where an .xml file has the model card, and its entry with the hash of the .bin."""


def convert(proto: onnx.ModelProto, target: Path, precision: str, batches: Iterable[np.ndarray]) -> None:
    """Write an ONNX model in float32 as an .xml file and its .bin.

    Args:
        proto: the model.
        target: the .xml file.
        precision: "fp16" halves the weights only; for "int8" NNCF quantises the layers after training.
        batches: of images as the model takes them, on which NNCF measures the ranges of the activations.
    """
    model = openvino.Core().read_model(proto.SerializeToString())
    if precision == "int8":
        # Otherwise NNCF reports over the network that it is used.
        os.environ.setdefault("NNCF_CI", "1")
        with optional_imports('export_params.precision "int8"', "pip install nncf"):
            import nncf
        images = list(batches)
        model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(model, target, compress_to_fp16=precision == "fp16")


def set_card(path: Path, card: ModelCard) -> None:
    """Write the card into an .xml file, with the hash of its .bin."""
    tree = ElementTree.parse(path)
    info = tree.find(INFO)
    assert info is not None
    for earlier in info.findall(CARD):
        info.remove(earlier)
    element = ElementTree.SubElement(info, CARD)
    for key, value in {**card.to_metadata(), PREFIX + WEIGHTS: digest_of_file(path.with_suffix(".bin"))}.items():
        ElementTree.SubElement(element, key.removeprefix(PREFIX), value=value)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def read_card(path: Path) -> ModelCard:
    """The card in an .xml file.

    Raises:
        DataError: there is none, it cannot be read, or the .bin beside it is another.
    """
    try:
        entries = {each.tag: each.get("value", "") for each in ElementTree.parse(path).iterfind(f"{INFO}/{CARD}/*")}
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: not an OpenVINO model that can be read ({first_line(error)})") from error
    expected = entries.pop(WEIGHTS, None)
    card = ModelCard.from_metadata({f"{PREFIX}{key}": value for key, value in entries.items()}, str(path))
    if card is None:
        raise DataError(f'{path}: has no model card; export it with export_params.profile "openvino"')
    if digest_of_file(weights := path.with_suffix(".bin")) != expected:
        raise DataError(f"{weights}: not the weights of {path.name}; export both again")
    return card


class OpenVinoNetwork(ExportedNetwork):
    """An .xml file, run by OpenVINO on the CPU.

    It computes in float32, apart from layers in 8 bits: OpenVINO's own default is bfloat16 where the processor has it.

    Args:
        path: the .xml file; the .bin lies beside it.
        threads: CPU threads; 0 = one for each CPU of this process.

    Raises:
        DataError: a file cannot be read, or was written by another program.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__(read_card(path), "OpenVINO on CPU")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or num_own_cpus()}
        try:
            self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DataError(f"{path}: not an OpenVINO model that can be run ({reason})") from error
        # A compiled model runs one request at a time.
        self.lock = threading.Lock()

    def run(self, fed: np.ndarray) -> list[np.ndarray]:
        """What the model returns for its input."""
        with self.lock:
            return [self.compiled(fed)[0]]
