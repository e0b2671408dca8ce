"""Renders a share of a data set, so that several processes can divide it among themselves."""

from collections.abc import Generator
from pathlib import Path

from data.synthetic.camera import make_cameras
from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import plan_shots
from data.synthetic.render import render_jpeg


def render_share(options: SyntheticOptions, folder: Path, share: int, shares: int) -> Generator[None]:
    """Renders the images share, share + shares, ... into existing sub-folders; yields after each of them."""
    cameras = make_cameras(options.seed, options.cameras)
    for shot in plan_shots(options)[share::shares]:
        (folder / shot.path).write_bytes(render_jpeg(shot, cameras[shot.camera], options.seed))
        yield
