"""The tree that eval_params.json becomes: which network to evaluate, and what to change of how it was trained."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from config.evaluation import EvaluationParams
from config.params import Params
from utils.options import Options


class EvalParams(Options):
    """One offline evaluation."""

    model_path: str = "runs"
    """A .pth file, a run's folder, or a folder of runs: its newest finished one."""
    batches_dir: str | None = None
    """Folder of the data set, or "synthetic"; null = as trained."""
    data_layout: Literal["auto", "market", "folders"] | None = None
    """Layout of batches_dir; null = as trained."""
    parallels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """GPU to evaluate on, by index; empty: the first GPU, or the CPU where there is none."""
    evaluation_params: SerializeAsAny[EvaluationParams] | None = None
    """The evaluation; null = as trained; keys given here change the trained one's, unless they name another type."""
    result_log_file: str = ""
    """JSON file for the metrics; "" = none."""
    pictures_dir: str = ""
    """Folder for pictures of the retrieved images; "" = none."""

    def as_trained(self, params: Params) -> Params:
        """The params of a trained network, changed as this evaluation asks."""
        changes: dict[str, Any] = {"parallels": self.parallels}
        if self.batches_dir is not None:
            changes["batches_dir"] = self.batches_dir
        if self.data_layout is not None:
            changes["data_layout"] = self.data_layout
        if self.evaluation_params is not None:
            changes["evaluation_params"] = self._evaluation(self.evaluation_params, params.evaluation_params)
        return params.model_copy(update=changes)

    @staticmethod
    def _evaluation(given: EvaluationParams, trained: EvaluationParams) -> EvaluationParams:
        if given.type not in (None, trained.type):
            return given
        return trained.model_copy(update={key: getattr(given, key) for key in given.model_fields_set - {"type"}})
