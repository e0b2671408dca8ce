"""The predecessor's spellings of the evaluator's params."""

from typing import Any

from config.errors import shown
from config.legacy import Meaning, Spelling, devices, is_zero, plugin_name, renamed
from config.legacy_params import SPELLINGS as OF_TRAINING
from utils.files import expand_user


def _spectral(value: Any) -> dict[str, Any]:
    """The temperature of a spectral transform of the 50 nearest images."""
    if is_zero(value):
        return {}
    new = {"re_ranking": "spectral", "spectral.top": 50, "spectral.temperature": value}
    return {f"evaluation_params.{key}": item for key, item in new.items()}


def _feature_file(value: Any) -> Meaning | dict[str, Any]:
    """A file that is read if it is there, and written otherwise."""
    if is_zero(value):
        return {}
    if not isinstance(value, str) or not value.endswith(".npz"):
        text = "the predecessor's pickled features hold no identities and are not read"
        raise ValueError(f"{text}; name an .npz file or leave it out, got {shown(value)}")
    if expand_user(value).is_file():
        return Meaning({"model_path": value}, "is there, so its features are evaluated: it is the 'model_path'")
    return {"features_path": value}


def _compared(key: str) -> Spelling:
    """What the predecessor built its network from; here a checkpoint says so itself."""
    return Spelling(
        (key,), lambda value: Meaning({f"expected.{key}": value}, "is compared with the checkpoint, which decides")
    )


SPELLINGS = (
    *(spelling for spelling in OF_TRAINING if spelling.keys[0].startswith(("model_params.", "evaluation_params."))),
    *map(_compared, ("img_h", "img_w", "model_params")),
    devices("gpus"),
    renamed("batch_size", "evaluation_params.batch_size"),
    plugin_name("benchmark_type"),
    Spelling(("spectral_transform",), _spectral),
    Spelling(("feature_path",), _feature_file, overrules=True),
)
"""Every key of the predecessor's eval_params.json that differs from ours."""
