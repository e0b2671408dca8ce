"""Writes a synthetic data set as a folder in the layout of Market-1501."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from data.synthetic.camera import make_cameras
from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import GALLERY, QUERY, TRAIN, plan_shots
from data.synthetic.render import render_jpeg
from data.synthetic.worker import render_share
from utils.cpus import num_cpus
from utils.errors import DataError
from utils.files import remove_leftovers, temporary_path
from utils.locks import locked
from utils.logs import bars_hidden

RENDERER_VERSION = 3
"""Raised with every change that gives other images, so that no cached set of an older renderer is taken."""

_ROOT = Path(__file__).resolve().parents[2]
_ENOUGH_FOR_PROCESSES = 200  # images; fewer are drawn before a second process has started

logger = logging.getLogger(__name__)


def make_synthetic(out: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """Renders a data set; the same options give the same bytes, whatever the number of workers.

    While another process makes something there, it is waited for; the same data set is then taken as made.

    Args:
        out: Folder to make; it appears when it is complete, never half-written.
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
    with _making(out):
        if _has_content(out):
            if not _is_set_of(out, options):
                raise DataError(refusal)
            logger.info("%s: was made meanwhile by another process", out)
        elif not _render_and_publish(out, options, workers):
            raise DataError(f"{out}: another process wrote here meanwhile; name another folder")
    return out


def cached_synthetic(root: Path, options: SyntheticOptions, workers: int | None = None) -> Path:
    """The data set of these options below `root`; makes it if it is not there yet.

    Of processes that start at the same time one makes it, the others wait for it.

    Returns:
        The folder `root/synthetic-<hash of the options and the renderer's version>`.

    Raises:
        DataError: `root` cannot be written.
    """
    identity = f"{RENDERER_VERSION} {options.model_dump_json()}"
    folder = root.absolute() / f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not _has_content(folder):
        with _making(folder):
            if not _has_content(folder):
                _render_and_publish(folder, options, workers)
    return folder


def _has_content(path: Path) -> bool:
    """Whether something is there that a data set must not replace: anything but an empty folder."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextmanager
def _making(out: Path) -> Iterator[None]:
    """Within this block no other process makes `out`, and nothing lies about of one that was killed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out.parent}: cannot be made: {error.strerror}; name another folder") from error
    with locked(out.with_name(f".{out.name}.lock"), f"making {out.name}", wait=True):
        remove_leftovers(out.parent, out.name)
        yield


def _is_set_of(folder: Path, options: SyntheticOptions) -> bool:
    """Whether a folder holds the data set of these options: its file names, and the bytes of some of its images.

    Every option and the seed have a part in the names; the images tell another version of the renderer.
    """
    shots = plan_shots(options)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if names != {str(shot.path) for shot in shots}:
        return False
    some = {shot.path.parent: shot for shot in shots}.values()  # the last of each split
    cameras = make_cameras(options.seed, options.cameras)
    return all(
        (folder / shot.path).read_bytes() == render_jpeg(shot, cameras[shot.camera], options.seed) for shot in some
    )


def _render_and_publish(out: Path, options: SyntheticOptions, workers: int | None) -> bool:
    """Renders next to `out` and renames; False when `out` has been filled meanwhile, whose content then stays."""
    temporary = temporary_path(out)
    try:
        for name in (TRAIN, QUERY, GALLERY):
            (temporary / name).mkdir(parents=True)
        _render(temporary, options, workers or num_cpus())
        try:
            temporary.replace(out)
        except OSError:
            # Of a version without locks, or where the disk has locks for each machine only.
            if not _has_content(out):
                raise
            return False
        return True
    finally:
        if temporary.exists():
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
    # In a session of their own, where no Ctrl-C reaches them: it is for this process to end them.
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
