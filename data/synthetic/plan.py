"""Which images a synthetic data set has: split, person, camera and file name of each."""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from data.synthetic.identity import Person, sample_people, sample_person
from data.synthetic.options import SyntheticOptions

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
_PEOPLE, _VISITS, _OTHERS = 2, 3, 4  # streams of random numbers; the cameras' is 1, the shots' is 5


@dataclass(frozen=True)
class Shot:
    """One image to render.

    Attributes:
        path: Path below the data set's folder, as Market-1501 names its files.
        person: Who is in the box; None for junk.
        camera: Index of the camera, from 0.
        visit: Number of the walk past the camera; shots of one visit share direction and place.
        key: Number of the shot in the data set; its random numbers depend on it alone.
        partial: Whether the box holds just a part of the person.
    """

    path: PurePosixPath
    person: Person | None
    camera: int
    visit: int
    key: int
    partial: bool = False


def plan_shots(options: SyntheticOptions) -> list[Shot]:
    """Lists every image of the data set.

    Person 1 is the first training person, the test persons' numbers follow. In each camera that sees a test person
    one image is a query and the others are in the gallery; every test person is seen by at least two cameras.
    """
    people = np.random.default_rng((options.seed, _PEOPLE))
    train = sample_people(people, options.train_identities)
    test = sample_people(people, options.test_identities)
    visits = np.random.default_rng((options.seed, _VISITS))
    shots: list[Shot] = []
    for pid, person in enumerate(train + test, start=1):
        _plan_person(shots, visits, options, pid, person)
    others = np.random.default_rng((options.seed, _OTHERS))
    for index in range(options.distractors):
        partial = others.random() < 0.3
        _plan_other(shots, others, options, "0000", index, sample_person(others), partial)
    for index in range(options.junk):
        cut = others.random() < 0.4
        _plan_other(shots, others, options, "-1", index, sample_person(others) if cut else None, cut)
    return shots


def _plan_person(
    shots: list[Shot], rng: np.random.Generator, options: SyntheticOptions, pid: int, person: Person
) -> None:
    most = options.images_per_camera
    seen_by = rng.integers(options.cameras // 2 + 1, options.cameras + 1)
    for camera in sorted(rng.permutation(options.cameras)[:seen_by].tolist()):
        count = int(rng.integers((most + 1) // 2, most + 1))
        sequence, start = int(rng.integers(1, 7)), int(rng.integers(0, 120_000))
        folders = [TRAIN] * count if pid <= options.train_identities else [QUERY] + [GALLERY] * count
        visit = len(shots)
        for index, folder in enumerate(folders):
            frame = start + 25 * index + int(rng.integers(0, 25))
            name = f"{pid:04d}_c{camera + 1}s{sequence}_{frame:06d}_{int(rng.integers(0, 5)):02d}.jpg"
            shots.append(Shot(PurePosixPath(folder, name), person, camera, visit, len(shots)))


def _plan_other(
    shots: list[Shot],
    rng: np.random.Generator,
    options: SyntheticOptions,
    pid: str,
    index: int,
    person: Person | None,
    partial: bool,
) -> None:
    camera = int(rng.integers(options.cameras))
    frame = 100 * index + int(rng.integers(0, 100))
    name = f"{pid}_c{camera + 1}s{int(rng.integers(1, 7))}_{frame:06d}_{int(rng.integers(0, 5)):02d}.jpg"
    shots.append(Shot(PurePosixPath(GALLERY, name), person, camera, len(shots), len(shots), partial))
