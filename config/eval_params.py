"""The tree that eval_params.json becomes: which network to evaluate, and what to change of how it was trained."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, SerializeAsAny

from config.evaluation import EvaluationParams
from config.params import Params
from data.layouts import LayoutChoice
from models.outputs import FeatureKind
from utils.options import Options

T = TypeVar("T", bound=Options)


class Expected(Options):
    """What a params file says of the network; a warning tells where the checkpoint, which decides, differs."""

    img_h: int | None = None
    """Height of the network's input; null = any."""
    img_w: int | None = None
    """Width of the network's input; null = any."""
    model_params: Mapping[str, bool | int | float | str] = {}
    """Some keys of the model_params that it was trained with."""

    def differences(self, params: Params) -> list[str]:
        """What the params of a checkpoint say otherwise, one text for each key."""
        given = {key: getattr(self, key) for key in ("img_h", "img_w") if getattr(self, key) is not None}
        trained = {key: getattr(params, key) for key in given}
        for key, value in self.model_params.items():
            given[f"model_params.{key}"] = value
            trained[f"model_params.{key}"] = getattr(params.model_params, key)
        return [f"{key} {trained[key]} instead of {given[key]}" for key in given if trained[key] != given[key]]


class EvalParams(Options):
    """An offline evaluation. Its evaluation_params are those of params.json; null = as trained."""

    model_path: str = "runs"
    """A .pth, .onnx or .xml, a run's or hub folder, "hf://owner/name", runs (the newest counts), or features (.npz)."""
    batches_dir: str | tuple[str, ...] | None = None
    """Folder or .lmdb file of the data set, or "synthetic", or a list of these; null = as evaluated in training."""
    data_dirs: tuple[str, ...] = ()
    """Several data sets to evaluate on, one after the other: another name for a list as batches_dir."""
    data_layout: LayoutChoice | None = None
    """Layout of batches_dir or data_dirs; null = as trained, or "auto" where these are given."""
    test_list: str | None = None
    """VehicleID's list of test images; null = as trained, or the largest where a data set is given."""
    parallels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of the GPUs to evaluate on, one process each; empty: the first GPU, or the CPU where there is none."""
    retrieval_of: FeatureKind | None = None
    """Compare the embeddings of a checkpoint, or the "features" before the neck; null = as trained."""
    expected: Expected = Expected()
    """The network that is expected; only compared with the checkpoint."""
    evaluation_params: SerializeAsAny[EvaluationParams] | None = None
    """The evaluation; null = as trained; with the trained type, the keys given here change the trained ones."""
    result_log_file: str = ""
    """JSON file for the metrics; "" = none."""
    pictures_dir: str = ""
    """Folder for pictures of the retrieved images; "" = none."""
    report_path: str = ""
    """HTML file for the report; "" = none."""
    report_images: bool = False
    """Save the charts and images of the report as files, too, in a folder beside report_path: NAME_images."""
    features_path: str = ""
    """.npz file for the embeddings of query and gallery, to evaluate again without images; "" = none."""

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets to evaluate on; empty: as in training."""
        return self.data_dirs or ((self.batches_dir,) if isinstance(self.batches_dir, str) else self.batches_dir or ())

    def as_trained(self, params: Params) -> tuple[Params, ...]:
        """The params of a trained network, changed as this evaluation asks; one for each data set."""
        changes: dict[str, Any] = {"parallels": self.parallels}
        if self.evaluation_params is not None:
            changes["evaluation_params"] = self._evaluation(self.evaluation_params, params.evaluation_params)
        if self.data_sets:
            changes |= {"data_layout": "auto", "test_list": "", "label_fixes": ""}
        given = {key: getattr(self, key) for key in ("data_layout", "test_list")}
        changes |= {key: value for key, value in given.items() if value is not None}
        return tuple(
            self._of_other_cameras(params.with_data(folder).model_copy(update=changes), params)
            for folder in self.data_sets or params.test_sets
        )

    @staticmethod
    def _of_other_cameras(params: Params, trained: Params) -> Params:
        """Cameras of another data set are not those of the training, unless the params say so."""
        options = params.evaluation_params
        if options.same_cameras is not None or params.data_name in trained.sources:
            return params
        return params.model_copy(update={"evaluation_params": options.model_copy(update={"same_cameras": False})})

    @staticmethod
    def _evaluation(given: EvaluationParams, trained: EvaluationParams) -> EvaluationParams:
        return given if given.type not in (None, trained.type) else _overlaid(trained, given, without=("type",))


def _overlaid(below: T, above: T, without: tuple[str, ...] = ()) -> T:
    """The options below, changed by what was said above, section by section."""
    changes: dict[str, Any] = {}
    for key in above.model_fields_set - {*without}:
        old, new = getattr(below, key), getattr(above, key)
        changes[key] = _overlaid(old, new) if isinstance(new, Options) else new
    return below.model_copy(update=changes)
