"""Writes a synthetic data set as a folder in the layout of Market-1501."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import GALLERY, QUERY, TRAIN, plan_shots
from data.synthetic.worker import render_share
from utils.cpus import num_cpus
from utils.errors import DataError
from utils.logs import bars_hidden

RENDERER_VERSION = 3
"""Raised with every change that gives other images, so that no cached set of an older renderer is taken."""

_ROOT = Path(__file__).resolve().parents[2]
_ENOUGH_FOR_PROCESSES = 200  # images; fewer are drawn before a second process has started


def make_synthetic(out: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """Renders a data set; the same options give the same bytes, whatever the number of workers.

    Args:
        out: Folder to make; it appears when it is complete, never half-written.
        options: Size and seed.
        workers: Rendering processes; None takes one per core.

    Returns:
        The folder `out`.

    Raises:
        DataError: `out` exists and is not an empty folder.
    """
    out = out.absolute()
    if _has_content(out):
        raise DataError(f"{out}: cannot make the synthetic data set here, it is not empty; name another folder")
    if not _render_and_publish(out, options, workers):
        raise DataError(f"{out}: another process wrote here meanwhile; name another folder")
    return out


def cached_synthetic(root: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """The data set of these options below `root`; makes it if it is not there yet.

    Processes that start at the same time may each render it; the first to finish publishes, all use that one.

    Returns:
        The folder `root/synthetic-<hash of the options and the renderer's version>`.
    """
    identity = f"{RENDERER_VERSION} {options.model_dump_json()}"
    folder = root.absolute() / f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not _has_content(folder):
        _render_and_publish(folder, options, workers)
    return folder


def _has_content(path: Path) -> bool:
    """Whether something is there that a data set must not replace: anything but an empty folder."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _render_and_publish(out: Path, options: SyntheticOptions, workers: int | None) -> bool:
    """Renders next to `out` and renames; False when `out` has been filled meanwhile, whose content then stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        folder = temporary / out.name  # mkdtemp's own folder is closed to other users
        for name in (TRAIN, QUERY, GALLERY):
            (folder / name).mkdir(parents=True)
        _render(folder, options, workers or num_cpus())
        try:
            folder.replace(out)
        except OSError:
            if not _has_content(out):
                raise
            return False
        return True
    finally:
        shutil.rmtree(temporary)


def _render(folder: Path, options: SyntheticOptions, workers: int) -> None:
    total = len(plan_shots(options))
    workers = min(workers, max(1, total // _ENOUGH_FOR_PROCESSES))
    written = render_share(options, folder, 0, 1) if workers == 1 else _processes(options, folder, workers)
    # Closing ends the processes even when the interruption comes from here, before the folder is removed.
    with closing(written), tqdm(total=total, desc="synthetic pedestrians", unit="image", disable=bars_hidden()) as bar:
        for _ in written:
            bar.update()


def _processes(options: SyntheticOptions, folder: Path, workers: int) -> Generator[None]:
    """Renders in processes of their own; yields once per image.

    Plain commands: `multiprocessing` would import the caller's script, and with it torch, into every process.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "data.synthetic", options.model_dump_json(), str(folder)]
    processes = [
        subprocess.Popen([*command, str(share), str(workers)], stdout=writing, cwd=_ROOT) for share in range(workers)
    ]
    os.close(writing)  # so that reading ends when the last process does
    try:
        with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123
            while chunk := pipe.read(4096):
                yield from (None for _ in chunk)
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"synthetic pedestrians: a rendering process failed, exit codes {codes}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
