"""What the tests share: how to run the entry scripts, and a data set small enough to train on in seconds."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hypothesis
import numpy as np
import pytest
from PIL import Image

from tests.preloaded import ROOT, PreloadedScript

# Not AMX: on a virtual machine it gave different losses for the same batch twice, and then NaN, where AVX-512 with its
# instructions for bfloat16 gave those of float32. oneDNN reads this, in torch and in OpenVINO.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

# Chosen with --hypothesis-profile, in the Makefile. What make test draws is the same each time.
hypothesis.settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("quick")

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


ONE, TWO = ((),), ((), ())
"""Processes of a script that have no arguments of their own."""


def torchrun(*arguments: str) -> list[str]:
    """The launcher of several processes of a script."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments, "--no-python"]


class Started:
    """An entry script that was started. What it prints lies outside of its folder."""

    def __init__(self, process: PreloadedScript | subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output = process, output
        weakref.finalize(self, shutil.rmtree, output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        """It does not outlive the block."""
        self.process.kill()
        self.process.wait()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self._output / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """The messages it has written so far."""
        return (self._output / "stderr").read_text()

    def wait_until(self, reached: Callable[[], object], what: str = "the moment waited for") -> None:
        """Return once a condition holds; the script must not end before."""
        deadline = time.monotonic() + 120
        while not reached():
            assert self.process.poll() is None, f"ended before {what}:\n{self.stderr}"
            assert time.monotonic() < deadline, f"no {what} in two minutes:\n{self.stderr}"
            time.sleep(0.002)

    def finish(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended."""
        with self:
            code = self.process.wait(timeout)
        return subprocess.CompletedProcess(self.process.args, code, self.stdout, self.stderr)

    def stop(self, number: int) -> subprocess.CompletedProcess[str]:
        """Send a signal and wait until it has ended."""
        self.process.send_signal(number)
        return self.finish()


class Script:
    """An entry script as a user runs it: a process of its own, in a folder of the test's.

    Args:
        folder: where it runs.
        preloaded: whether the process has imported what the scripts import, instead of being a new one.
    """

    def __init__(self, folder: Path, preloaded: bool = True) -> None:
        self.folder, self.preloaded = folder, preloaded

    def run(
        self,
        script: str,
        *arguments: str,
        processes: Sequence[Sequence[str]] = ONE,
        launcher: Sequence[str] = (),
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to the end."""
        return self.start(script, *arguments, processes=processes, launcher=launcher).finish(timeout)

    def succeed(
        self, script: str, *arguments: str, processes: Sequence[Sequence[str]] = ONE, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run it to the end, which must be a good one."""
        process = self.run(script, *arguments, processes=processes, timeout=timeout)
        assert process.returncode == 0, process.stderr
        return process

    def mistake(self, script: str, *arguments: str, processes: Sequence[Sequence[str]] = ONE) -> str:
        """Run what the user got wrong: exit code 2 and messages without a traceback, which are returned."""
        process = self.run(script, *arguments, processes=processes)
        assert process.returncode == 2, process.stderr
        assert "Traceback" not in process.stderr
        return process.stderr

    def start(
        self, script: str, *arguments: str, processes: Sequence[Sequence[str]] = ONE, launcher: Sequence[str] = ()
    ) -> Started:
        """Start it.

        Args:
            script: its file in the project's folder.
            arguments: its command line.
            processes: further arguments of each process; several are joined as torchrun joins them.
            launcher: a command line that starts the script's, such as `torchrun(...)`.
        """
        command, environment = self.command(script, *arguments), self.environment()
        output = Path(tempfile.mkdtemp())
        stdout, stderr = output / "stdout", output / "stderr"
        stdout.touch()
        stderr.touch()
        if self.preloaded and not launcher:
            process = PreloadedScript(command[3:], self.folder, environment, stdout, stderr, processes)
        else:
            assert processes == ONE
            with stdout.open("wb") as out, stderr.open("wb") as err:
                process = subprocess.Popen(
                    [*launcher, *command], cwd=self.folder, env=environment, stdout=out, stderr=err
                )
        return Started(process, output)

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


@pytest.fixture(autouse=True)
def _log_of_each_test() -> Iterator[None]:
    """The log goes on as before after a test that calls a command within this process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        # pytest changes its own from one phase of a test to the next.
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
            handler.close()


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
