import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from data.synthetic import dataset
from data.synthetic.dataset import cached_synthetic, make_synthetic
from data.synthetic.options import SyntheticOptions
from data.synthetic.plan import plan_shots
from tests.conftest import ROOT
from utils.errors import DataError

SMALL = SyntheticOptions(train_identities=6, test_identities=5, cameras=3, images_per_camera=2, distractors=7, junk=4)
SPLITS = ("bounding_box_train", "bounding_box_test", "query")
NAME = re.compile(r"(\d{4}|-1)_c([1-9])s([1-6])_(\d{6})_(\d{2})\.jpg")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pids_and_cameras(folder: Path) -> list[tuple[int, int]]:
    matches = [NAME.fullmatch(path.name) for path in sorted(folder.iterdir())]
    return [(int(match[1]), int(match[2])) for match in matches if match]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp("synthetic") / "small", SMALL, workers=1)


def test_the_folder_holds_the_three_splits_and_rgb_jpegs_of_64_by_128_with_market_names(small):
    assert {path.name for path in small.iterdir()} == set(SPLITS)
    for split in SPLITS:
        for path in (small / split).iterdir():
            assert NAME.fullmatch(path.name), path
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128)), path


@pytest.mark.skipif(Image.__version__ != "13.0.0", reason="other versions of Pillow may draw and encode other bits")
def test_the_rendered_images_stay_the_same_until_the_version_of_the_renderer_changes(small):
    digest = hashlib.sha256(b"".join(content(small).values())).hexdigest()[:16]
    assert (dataset.RENDERER_VERSION, digest) == (3, "0c09ddacbda5a1b9")


def test_persons_of_the_splits(small):
    train, query, gallery = (
        pids_and_cameras(small / split) for split in ("bounding_box_train", "query", "bounding_box_test")
    )
    train_pids, query_pids = ({pid for pid, _ in split} for split in (train, query))
    assert (len(train_pids), len(query_pids)) == (SMALL.train_identities, SMALL.test_identities)
    assert min(train_pids | query_pids) > 0
    assert not train_pids & query_pids
    counts = Counter(pid for pid, _ in gallery)
    assert (counts.pop(0), counts.pop(-1)) == (SMALL.distractors, SMALL.junk)
    assert set(counts) == query_pids
    # Every query has a match in another camera.
    assert len(set(query)) == len(query)
    assert all(any(pid == other and camera != seen for other, seen in gallery) for pid, camera in query)
    images = [set(content(small / split).values()) for split in ("query", "bounding_box_test")]
    assert not images[0] & images[1]
    assert set(Counter(train).values()) <= {1, SMALL.images_per_camera}
    assert min(Counter(pid for pid, _ in set(train)).values()) >= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_the_number_of_processes(small, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(dataset, "_IMAGES_PER_PROCESS", 1)
    (tmp_path / "again").mkdir()  # an empty folder is filled
    again = make_synthetic(tmp_path / "again", SMALL, workers=workers)
    assert content(again) == content(small)


def test_another_seed_gives_other_images(small, tmp_path):
    other = make_synthetic(tmp_path / "other", SMALL.model_copy(update={"seed": 2}), workers=1)
    assert not set(content(other).values()) & set(content(small).values())


@pytest.mark.parametrize("present", ["out", "out/mine.txt"])
def test_what_is_in_the_way_is_refused_and_left_alone(tmp_path, present):
    (tmp_path / present).parent.mkdir(exist_ok=True)
    (tmp_path / present).write_text("keep")
    with pytest.raises(DataError, match="out"):
        make_synthetic(tmp_path / "out", SMALL)
    assert content(tmp_path) == {present: b"keep"}


def test_a_failing_process_is_reported_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_IMAGES_PER_PROCESS", 1)
    monkeypatch.setattr(dataset, "_ROOT", tmp_path)  # the processes do not find the package there
    (tmp_path / "sets").mkdir()
    with pytest.raises(RuntimeError, match="exit codes"):
        make_synthetic(tmp_path / "sets" / "out", SMALL, workers=2)
    assert not list((tmp_path / "sets").iterdir())


def test_a_cached_set_is_made_once_per_options_and_renderer(tmp_path, monkeypatch):
    first = cached_synthetic(tmp_path, SMALL, workers=1)
    monkeypatch.setattr(dataset, "_render", None)  # rendering again would fail
    assert cached_synthetic(tmp_path, SMALL) == first
    monkeypatch.undo()
    other = cached_synthetic(tmp_path, SMALL.model_copy(update={"seed": 5}), workers=1)
    monkeypatch.setattr(dataset, "RENDERER_VERSION", dataset.RENDERER_VERSION + 1)
    third = cached_synthetic(tmp_path, SMALL, workers=1)
    assert sorted(tmp_path.iterdir()) == sorted({first, other, third})
    assert len({first, other, third}) == 3


@pytest.mark.parametrize("difference", [None, "seed", "file more", "file less", "file"])
def test_only_the_same_set_made_meanwhile_is_taken(small, tmp_path, monkeypatch, difference):
    out = tmp_path / "out"

    @contextmanager
    def locked(path: Path, purpose: str, *, wait: bool) -> Iterator[None]:
        """Stands in for the lock: what another process made while this one waited for it."""
        if difference == "file":
            out.write_text("a file")
        else:
            shutil.copytree(small, out)
        if difference == "file more":
            (out / "mine.txt").touch()
        if difference == "file less":
            (out / plan_shots(SMALL)[-1].path).unlink()
        yield

    monkeypatch.setattr(dataset, "locked", locked)
    monkeypatch.setattr(dataset, "_render", None)  # rendering again would fail
    options = SMALL.model_copy(update={"seed": 2}) if difference == "seed" else SMALL
    if difference is None:
        assert content(make_synthetic(out, options)) == content(small)
    else:
        with pytest.raises(DataError, match="out: cannot make the synthetic data set here, it is not empty"):
            make_synthetic(out, options)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("field", SyntheticOptions.model_fields)
def test_every_option_has_a_part_in_the_file_names(field):
    """By these a data set is told from another one."""
    other = SMALL.model_copy(update={field: getattr(SMALL, field) + 1})
    names = [{shot.path for shot in plan_shots(options)} for options in (SMALL, other)]
    assert names[0] != names[1]


def test_a_place_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(DataError, match=r"/file/below: cannot be made: Not a directory"):
        make_synthetic(tmp_path / "file" / "below" / "out", SMALL)


def test_ctrl_c_ends_all_rendering_processes_without_a_word(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from data.synthetic.dataset import make_synthetic; from data.synthetic.options import SyntheticOptions\n"
        "try: make_synthetic(Path(sys.argv[1]), SyntheticOptions(), workers=2)\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not any(tmp_path.glob(".*.tmp/*/*.jpg")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.communicate()[1] == ""
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"cameras": 1}, {"cameras": 10}, {"seed": -1}, {"train_identities": 9000, "test_identities": 1000}]
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValidationError):
        SyntheticOptions(**wrong)


def test_a_rendering_process_does_not_load_torch():
    code = "import sys, data.synthetic.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
