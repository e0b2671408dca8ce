"""Images without labels, such as the crops of a detector."""

import re
from pathlib import Path

from data.layouts.layout import Layout, images, subfolders
from data.samples import UNKNOWN_PID, Dataset, Sample

CAMERA = re.compile(r"(?:^|_)c(\d{1,18})(?=s\d|_|\.|$)|(?<![^\W_])cam(?:era)?[-_ ]?(\d{1,18})", re.IGNORECASE)
"""The camera in a name: 0002_c1s1_000451_03.jpg, c12_000451.jpg, cam3_17.png, camera-12."""


def read_unlabelled(root: Path) -> Dataset:
    """All images in a folder and in the folders inside it, for training.

    The camera is the number that `CAMERA` finds in the name of the file, or else of the nearest folder that has one,
    below the root; 0 if no name has one, as in other layouts with unknown cameras.
    """
    folders, seen = [root], set[Path]()
    samples = []
    for folder in folders:
        # Links may lead in a circle.
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        folders += subfolders(folder)
        samples += [Sample(path, UNKNOWN_PID, _camera_of(path.relative_to(root))) for path in images(folder)]
    return Dataset(sorted(samples), [], [], [])


def _camera_of(path: Path) -> int:
    found = (CAMERA.search(name) for name in reversed(path.parts))
    first = next((name for name in found if name is not None), None)
    return 0 if first is None else int(first[1] or first[2])


UNLABELLED = Layout(
    lambda root: bool(images(root)) and not subfolders(root),
    read_unlabelled,
    "images without labels, in folders of any depth if data_layout names it, in one folder otherwise",
)
