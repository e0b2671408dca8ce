"""Weights & Biases. Account, server and offline mode are its own environment variables, such as WANDB_MODE."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wandb

from engine.sinks.process import LoggedRun


class Wandb:
    """A run of the project WANDB_PROJECT, "reid" by default."""

    def __init__(self, run: LoggedRun) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "reid"),
            name=run.name,
            dir=run.folder,
            config=run.params,
            id=run.known_id,
            resume="allow" if run.known_id else None,
            settings=wandb.Settings(console="off"),
        )
        run.begin(self._run.id)
        # Its own steps may only grow; a resumed training records some steps again.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        self._run.log({**values, "step": step})

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""
        self._run.log({tag: wandb.Image(pixels), "step": step})

    def file(self, path: Path) -> None:
        """A page to look at, or an artifact."""
        if path.suffix == ".html":
            self._run.log({path.stem: wandb.Html(path.read_text(encoding="utf-8"), inject=False)})
            return
        artifact = wandb.Artifact(f"{path.stem}-{self._run.id}", type="model")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """Send everything."""
        self._run.finish()


open_sink = Wandb
