"""The frameworks whose checkpoints are known here.

Another one is a module with `LOOKS_LIKE`, `recognises` and `translate`, and an entry of IMPORTERS.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from types import ModuleType

from torch import Tensor

from models.importers import clipreid, fastreid, solider, torchreid, transreid
from models.importers.weights import ForeignWeights, Imported, listed
from utils.errors import DataError, ParamsError

IMPORTERS: dict[str, ModuleType] = {
    "fastreid": fastreid,
    "torchreid": torchreid,
    "transreid": transreid,
    "solider": solider,
    "clipreid": clipreid,
}


def import_state(state: Mapping[str, Tensor], framework: str) -> Imported:
    """Translate the state dict of a framework's checkpoint.

    Raises:
        ParamsError: no such framework is known.
        DataError: the network is another than of this framework, or one that is not supported.
    """
    if framework not in IMPORTERS:
        near = get_close_matches(framework, IMPORTERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ParamsError(f"--as {framework}: unknown framework{hint} (known: {', '.join(IMPORTERS)})")
    importer = IMPORTERS[framework]
    if not importer.recognises(state.keys()):
        raise DataError(f"not {importer.LOOKS_LIKE}; {_looks_like(state)}")
    return importer.translate(ForeignWeights(state))


def framework_of(names: Collection[str]) -> str | None:
    """The framework of a checkpoint with these names; None: none that is known, or ours."""
    if any(name.startswith("branches.") for name in names):
        return None
    return next((framework for framework, importer in IMPORTERS.items() if importer.recognises(names)), None)


def _looks_like(state: Mapping[str, Tensor]) -> str:
    """What a file may be instead, and what to do then."""
    if any(name.startswith("branches.") for name in state):
        return "it is a checkpoint of this framework, which needs no import"
    if (framework := framework_of(state.keys())) is not None:
        return f"it looks like {IMPORTERS[framework].LOOKS_LIKE}; use --as {framework}"
    return f"its names are of no network known here: {listed(state)}"
