"""ClearML. Server, account and offline mode are its own settings, such as CLEARML_OFFLINE_MODE."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from clearml import Task

from engine.sinks.process import LoggedRun


class ClearML:
    """A task of the project CLEARML_PROJECT, "reid" by default."""

    def __init__(self, run: LoggedRun) -> None:
        # Its reporter is a fork of a process with threads, which may never get a lock that one of them held. This is
        # report_use_subprocess of clearml.conf.
        Task._report_subprocess_enabled = False  # pyright: ignore[reportAttributeAccessIssue]
        known = None if Task.is_offline() else run.known_id
        self._task = Task.init(
            project_name=os.environ.get("CLEARML_PROJECT", "reid"),
            task_name=run.name,
            reuse_last_task_id=False,
            continue_last_task=known or False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
        )
        # The curves have the steps of the training; ClearML would count on from the last one.
        self._task.set_initial_iteration(0)
        run.begin(self._task.id)
        self._task.connect(run.params, name="params")
        self._logger = self._task.get_logger()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for tag, value in values.items():
            group, _, name = tag.partition("/")
            self._logger.report_scalar(group, name or group, float(value), step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""
        group, _, name = tag.partition("/")
        self._logger.report_image(group, name or group, step, image=pixels)

    def file(self, path: Path) -> None:
        """An artifact, and a page to look at."""
        self._task.upload_artifact(path.stem, path, wait_on_upload=True)
        if path.suffix == ".html":
            self._logger.report_media(path.stem, path.stem, local_path=str(path))

    def close(self) -> None:
        """Send everything."""
        self._task.close()


open_sink = ClearML
