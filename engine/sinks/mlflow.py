"""MLflow. Server, account and experiment are its own environment variables, such as MLFLOW_TRACKING_URI."""

import os
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np

from engine.sinks.process import LoggedRun

MAX_PARAMS = 100
"""That a server takes at a time."""
MAX_LENGTH = 6000
"""Characters that it takes of one."""


class MLflow:
    """A run of the experiment that MLflow's environment variables name."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        known = run.known_id
        run_id = mlflow.start_run(run_id=known, run_name=None if known else run.name).info.run_id
        run.begin(run_id)
        if known is None:
            params = {key: str(value)[:MAX_LENGTH] for key, value in run.flat_params.items()}
            names = list(params)
            for start in range(0, len(names), MAX_PARAMS):
                mlflow.log_params({name: params[name] for name in names[start : start + MAX_PARAMS]})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        mlflow.log_metrics(dict(values), step=step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""
        mlflow.log_image(pixels, key=tag, step=step)

    def file(self, path: Path) -> None:
        """An artifact."""
        mlflow.log_artifact(str(path))

    def close(self) -> None:
        """End the run."""
        mlflow.end_run()


open_sink = MLflow
