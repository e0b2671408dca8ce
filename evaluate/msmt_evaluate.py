"""Generalisation to MSMT17: the test of evaluate/market_evaluate.py on MSMT17, wherever the network was trained.

The usual cross-domain test: trained on Market-1501, evaluated on MSMT17. Papers have used V2 (masked faces) since
2019; V1 is read too.
"""

from dataclasses import replace
from typing import Any

from config.params import Params
from data.dataset import read_root
from data.layouts.msmt import MSMT
from data.lmdb.format import is_lmdb
from data.lmdb.reading import read_about
from data.samples import Dataset
from evaluate import market_evaluate
from evaluate.core.context import EvalContext
from utils.errors import DataError
from utils.files import expand_user


class Options(market_evaluate.Options):
    """The keys of evaluation_params when its type is "msmt_evaluate": those of market_evaluate and one more."""

    msmt_dir: str = ""
    """Folder of MSMT17, V2 or V1, or an .lmdb file packed from it; "" = batches_dir."""

    def data_set(self, batches_dir: str) -> str:
        """Name of what is measured."""
        return self.msmt_dir or batches_dir


def run_eval(config: EvalContext) -> dict[str, Any]:
    """As market_evaluate.run_eval, with MSMT17's query and gallery, or with the features that config carries.

    Raises:
        DataError: there is no MSMT17 in the folder, or its lists do not fit its images.
    """
    if config.features is not None:
        return market_evaluate.run_eval(config)
    return market_evaluate.measure(replace(config, params=_on_msmt(config.params)), _read_msmt(config.params))


def check_data(dataset: Dataset, config: Params) -> None:
    """Check before training that MSMT17 exists; `dataset`, the training data, needs no test set."""
    market_evaluate.check_data(_read_msmt(config), _on_msmt(config))


def _folder(config: Params) -> str:
    options = config.evaluation_params
    assert isinstance(options, Options)
    return options.msmt_dir or config.data_name


def _on_msmt(config: Params) -> Params:
    """The params with MSMT17 as their data set, so that messages name the right folder; with its own cameras."""
    options = config.evaluation_params
    if _folder(config) != config.data_name and options.same_cameras is None:
        options = options.model_copy(update={"same_cameras": False})
    return config.model_copy(update={"batches_dir": _folder(config), "evaluation_params": options})


def _read_msmt(config: Params) -> Dataset:
    root = expand_user(_folder(config))
    is_msmt = read_about(root).layout == "msmt" if is_lmdb(root) else MSMT.is_in(root)
    if not is_msmt:
        raise DataError(f"evaluation_params.msmt_dir: {root}: no MSMT17 here; expected {MSMT.description}")
    return read_root(root, "msmt")
