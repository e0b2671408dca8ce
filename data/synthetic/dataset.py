"""Writes a synthetic data set as a folder in the layout of Market-1501."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import GALLERY, QUERY, TRAIN, plan_shots
from data.synthetic.render import render_share
from utils.errors import DataError
from utils.files import remove_leftovers, temporary_path
from utils.locks import locked
from utils.logs import bars_hidden
from utils.process import num_cpus

RENDERER_VERSION = 3
"""Incremented with every change of the rendered images, so that no cached set of an older renderer is used."""

_ROOT = Path(__file__).resolve().parents[2]
_IMAGES_PER_PROCESS = 200  # fewer are rendered before a second process has started

logger = logging.getLogger(__name__)


def make_synthetic(out: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """Renders a data set; the same options give the same bytes, whatever the number of workers.

    If another process is making the same folder, wait for it and keep its result if that is the same data set.

    Args:
        out: Folder to make; it appears when it is complete.
        options: Size and seed.
        workers: Rendering processes; None takes one per core.

    Returns:
        The folder `out`.

    Raises:
        DataError: `out` exists and is not an empty folder, or its parent cannot be written.
    """
    out = out.absolute()
    refusal = f"{out}: cannot make the synthetic data set here, it is not empty; name another folder"
    if _has_content(out):
        raise DataError(refusal)
    if not _render_unless_made(out, options, workers):
        if not _has_names(out, options):
            raise DataError(refusal)
        logger.info("%s: was made meanwhile by another process", out)
    return out


def cached_synthetic(root: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """The data set of these options below `root`; makes it if it does not exist yet.

    Of processes that start at the same time one makes it, the others wait for it.

    Returns:
        The folder `root/synthetic-<hash of the options and the renderer's version>`.

    Raises:
        DataError: `root` cannot be written.
    """
    identity = f"{RENDERER_VERSION} {options.model_dump_json()}"
    folder = root.absolute() / f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not _has_content(folder):
        _render_unless_made(folder, options, workers)
    return folder


def _has_content(path: Path) -> bool:
    """Whether something exists that a data set must not replace: anything but an empty folder."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _has_names(folder: Path, options: SyntheticOptions) -> bool:
    """Whether a folder has the files of these options; every option and the seed change some of their names."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return names == {str(shot.path) for shot in plan_shots(options)}


def _render_unless_made(out: Path, options: SyntheticOptions, workers: int | None) -> bool:
    """Renders into a temporary folder and renames it; False if another process had filled `out` before."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out.parent}: cannot be made: {error.strerror}; name another folder") from error
    with locked(out.with_name(f".{out.name}.lock"), f"making {out.name}", wait=True):
        remove_leftovers(out.parent, out.name)
        if _has_content(out):
            return False
        temporary = temporary_path(out)
        try:
            for name in (TRAIN, QUERY, GALLERY):
                (temporary / name).mkdir(parents=True)
            _render(temporary, options, workers or num_cpus())
            temporary.replace(out)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)
        return True


def _render(folder: Path, options: SyntheticOptions, workers: int) -> None:
    total = len(plan_shots(options))
    workers = min(workers, max(1, total // _IMAGES_PER_PROCESS))
    written = render_share(options, folder, 0, 1) if workers == 1 else _processes(options, folder, workers)
    # Closing ends the processes before the folder is removed, even if this process is interrupted here.
    with closing(written), tqdm(total=total, desc="synthetic pedestrians", unit="image", disable=bars_hidden()) as bar:
        for _ in written:
            bar.update()


def _processes(options: SyntheticOptions, folder: Path, workers: int) -> Generator[None]:
    """Renders in separate processes; yields once per image.

    These are plain commands: `multiprocessing` would import the caller's script, and with it torch, in every process.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "data.synthetic", options.model_dump_json(), str(folder)]
    # In sessions of their own, so that Ctrl-C reaches only this process, which ends them.
    processes = [
        subprocess.Popen([*command, str(share), str(workers)], stdout=writing, cwd=_ROOT, start_new_session=True)
        for share in range(workers)
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
