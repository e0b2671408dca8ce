"""What the tests of the entry scripts share: how to run them, and a data set small enough to train on in seconds."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

TINY_PARAMS: dict[str, Any] = {
    "img_h": 64,
    "img_w": 32,
    "epoch": 2,
    "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2},
    "data_augmentation": {"pad": 4, "random_erasing": {"probability": 0.5}, "brightness": 0.2},
    "model_params": {
        "model": "resnet_18",
        "last_conv_stride": 2,
        "feature_dim": 16,
        "pcb_n_parts": 2,
        "feature_global_dim": 8,
        "feature_dropout": 0.1,
        "global_feature_erasing": 0.5,
        "random_drop_branches": 1,
        "spectral_trans": 0.3,
    },
    "tri_loss_margin": 0.3,
    "lr": {"base_lr": 0.01, "fc_lr": 0.01, "warmup_epoch": 1, "decay_step": [1], "decay_unit": "epoch"},
    "evaluation_params": {"type": "market_evaluate"},
    "log_every": 2,
}


def pytest_configure() -> None:
    """Ctrl-C works in the tests, and in what they start, although a shell makes its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Script:
    """An entry script as a user runs it: a process of its own, in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, script: str, *arguments: str, launcher: Sequence[str] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run it to the end; a launcher is what stands between "torchrun" and the script."""
        command = self.command(script, *arguments)
        if launcher:
            # A port of its own for each run, as there may be several at once.
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *launcher, "--no-python"]
            command = [*torchrun, *command]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def command(self, script: str, *arguments: str) -> list[str]:
        """The command line; warnings are errors there too."""
        return [sys.executable, "-W", "error", str(ROOT / script), *arguments]

    def environment(self) -> dict[str, str]:
        """Hides GPUs, so that results are the same on every machine."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    def write_params(self, name: str = "params.json", **changes: object) -> Path:
        """A params file for the tiny data set, with some keys changed."""
        path = self.folder / name
        path.write_text(json.dumps({**TINY_PARAMS, "batches_dir": str(self.folder / "market"), **changes}))
        return path


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.fixture(scope="session")
def make_market() -> Callable[[Path], Path]:
    """Writes a hand-made Market-1501 folder: cameras up to 15, png and jpg mixed, junk, distractors, odd identities."""

    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)

        def draw(split: str, name: str, pid: int) -> None:
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = np.random.default_rng(pid + 1).integers(0, 256, 3)
            pixels = np.clip(colour + rng.normal(0, 30, (64, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)

        for pid in range(3, 13):
            for camid in (1, 7, 15):
                suffix = "png" if camid == 7 else "jpg"
                draw("bounding_box_train", f"{pid:04d}_c{camid}s1_{camid:06d}_00.{suffix}", pid)
        draw("bounding_box_train", "0020_c1s1_000001_00.jpg", 20)  # one image only
        for pid in range(31, 37):
            draw("query", f"{pid:04d}_c2s1_000001_00.jpg", pid)
            for camid in (2, 11):
                draw("bounding_box_test", f"{pid:04d}_c{camid}s1_000002_00.{'png' if camid == 2 else 'jpg'}", pid)
        draw("query", "0040_c2s1_000001_00.jpg", 40)  # nowhere in the gallery
        draw("bounding_box_test", "0000_c3s1_000001_00.jpg", 0)
        draw("bounding_box_test", "-1_c3s1_000001_00.jpg", -1)
        return folder

    return make
