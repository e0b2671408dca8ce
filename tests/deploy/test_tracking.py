"""The tracking example: tracker, scores, rendered street, and the program on an exported model."""

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.synthetic.identity import sample_people
from deploy.predictor import Predictor
from examples import consumers
from examples.street import HEIGHT, WIDTH, Frame, detect, draw_walker, walking_video
from examples.track import Tracked, id_switches, idf1, main
from examples.tracker import Tracker, assign, overlaps
from utils.cli import USER_MISTAKE, exit_code_of

RED, BLUE = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


def at(*xs: float) -> np.ndarray:
    return np.array([[x, 0.0, 40.0, 80.0] for x in xs]).reshape(-1, 4)


def crossing(bounce: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and embeddings of two persons who meet and pass, or turn back; one hides the other while they meet."""
    frames = []
    for frame in range(-14, 15):
        away = 8.0 * abs(frame)
        first = -away if bounce else 8.0 * frame
        hidden = abs(frame) <= 1
        frames.append((at(first) if hidden else at(first, -first), RED[None] if hidden else np.stack([RED, BLUE])))
    return frames


class TestTracker:
    def test_overlap_is_that_of_the_pixels(self) -> None:
        rng = np.random.default_rng(0)
        boxes = rng.integers(10, 50, (8, 4)).astype(float)
        masks = np.zeros((8, 100, 100), bool)
        for mask, (x, y, w, h) in zip(masks, boxes.astype(int), strict=True):
            mask[y : y + h, x : x + w] = True
        expected = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
        np.testing.assert_allclose(overlaps(boxes, boxes), expected)

    @pytest.mark.parametrize("bounce", [False, True])
    def test_appearance_tells_whether_two_passed_or_turned_back(self, bounce: bool) -> None:
        tracker = Tracker(0.3)
        ids = [tracker.step(boxes, embeddings) for boxes, embeddings in crossing(bounce)]
        assert ids[1].tolist() == [0, 0]
        assert ids[2].tolist() == ids[-1].tolist() == [1, 2]

    def test_motion_alone_assumes_that_two_passed(self) -> None:
        for bounce in (False, True):
            tracker = Tracker()
            ids = [tracker.step(boxes) for boxes, _ in crossing(bounce)]
            assert (ids[2].tolist() == ids[-1].tolist()) is not bounce

    @pytest.mark.parametrize(("looks", "expected"), [(RED, 1), (BLUE, 2), (None, 2)])
    def test_a_person_who_returns_elsewhere_is_recognised_by_appearance(
        self, looks: np.ndarray | None, expected: int
    ) -> None:
        tracker = Tracker(0.3)
        for x in (0.0, 5.0, 10.0):
            tracker.step(at(x), None if looks is None else RED[None])
        for _ in range(40):
            tracker.step(at(), None if looks is None else np.zeros((0, 2), np.float32))
        found = [tracker.step(at(x), None if looks is None else looks[None]).item() for x in (700.0, 705.0, 710.0)]
        assert found == [0, 0, expected]

    def test_a_person_in_sight_does_not_appear_elsewhere_too(self) -> None:
        tracker = Tracker(0.3)
        for _ in range(3):
            tracker.step(at(0), RED[None])
        twins = [tracker.step(at(0, 700), np.stack([RED, RED])).tolist() for _ in range(3)]
        assert twins == [[1, 0], [1, 0], [1, 2]]

    def test_an_unlikely_pair_does_not_displace_a_likely_one(self) -> None:
        assert assign(np.array([[0.1, 0.28], [0.29, 5.0]]), 0.3) == [(0, 1), (1, 0)]
        assert assign(np.array([[0.1, np.inf], [0.29, 5.0]]), 0.3) == [(0, 0)]


def slow_idf1(frames: list[Tracked]) -> float:
    """Tries every way to give tracks to persons."""
    pids, ids = np.concatenate([frame.pids for frame in frames]), np.concatenate([frame.ids for frame in frames])
    people, tracks = sorted(set(pids)), sorted(set(ids) - {0})
    ways = itertools.permutations([*tracks, *[-1] * len(people)], len(people))
    best = max(sum(((pids == p) & (ids == t)).sum() for p, t in zip(people, way, strict=True)) for way in ways)
    return 2 * best / (len(pids) + (ids > 0).sum())


def seen(*ids: int, apart: float = 100.0) -> Tracked:
    """A frame with persons 1, 2, ... beside each other, and the ids of their tracks."""
    return Tracked(1 + np.arange(len(ids)), at(*(apart * place for place in range(len(ids)))), np.array(ids))


class TestScores:
    @pytest.mark.parametrize("seed", range(5))
    def test_idf1_is_the_best_of_all_ways(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 4, 12)
        frames = [Tracked(1 + rng.permutation(3)[:n], np.ones((n, 4)), rng.permutation(4)[:n]) for n in counts]
        assert idf1(frames) == pytest.approx(slow_idf1(frames))

    @pytest.mark.parametrize(
        ("frames", "expected"),
        [
            ([seen(0), seen(0), seen(7), seen(7), seen(0), seen(7)], 0),  # gaps
            ([seen(7), seen(0), seen(8), seen(7)], 2),
            # Tracks that change places, while their persons overlap and once they are apart.
            ([seen(7, 9, apart=5), seen(9, 7, apart=5)], 0),
            ([seen(7, 9), seen(9, 7)], 2),
            ([seen(7, 9, apart=5), seen(9, 7, apart=5), seen(9, 7)], 2),
        ],
    )
    def test_switches_of_ids(self, frames: list[Tracked], expected: int) -> None:
        assert id_switches(frames) == expected


class TestStreet:
    def test_the_same_generator_gives_the_same_video(self) -> None:
        def video(seed: int) -> list[tuple[bytes, list[list[float]]]]:
            frames = walking_video(np.random.default_rng(seed), people=2, frames=2)
            return [(frame.pixels.tobytes(), frame.boxes.tolist()) for frame in frames]

        assert video(3) == video(3) != video(4)

    def test_a_box_holds_its_person_and_the_edge_cuts_it(self) -> None:
        person = sample_people(np.random.default_rng(5), 1)[0]
        image, owner = Image.new("RGB", (WIDTH, HEIGHT)), np.zeros((HEIGHT, WIDTH), np.int32)
        size, (x, y, width, height) = draw_walker(image, owner, 7, person, [400.0, 0.5, 1.5, 1.5, 0.4])
        rows, columns = np.nonzero(owner == 7)
        inside = (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)
        assert len(rows) == size
        assert inside.mean() > 0.97
        size, _ = draw_walker(image, owner, 8, person, [0.0, 0.5, 0.0, 0.0, 0.0])
        assert (owner == 8).sum() / size == pytest.approx(0.5, abs=0.15)

    def test_detections_lie_about_the_truth(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.array([[100.0 * place, 50.0, 40.0, 80.0] for place in range(10)])
        frame = Frame(np.zeros((1, 1, 3), np.uint8), np.arange(1, 11), boxes)
        found = [detect(frame, rng, missed=0.3) for _ in range(300)]
        shifts = np.concatenate([some[:, 0] + some[:, 2] / 2 - boxes[index, 0] - 20 for some, index in found])
        assert len(shifts) == pytest.approx(2100, rel=0.1)
        assert np.std(shifts) == pytest.approx(0.03 * 40, rel=0.15)


def test_the_program_prints_both_trackers(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--videos", "1", "--people", "3", "--frames", "16", "--max_distance", "0.2"]
    main(["--model", str(exported), *sizes, "--out", str(tmp_path / "strip.png")])
    rows = re.findall(r"^\| ([a-zA-Z -]+) \| \d+\.\d \| \d+ to \d+ \| (\d+\.\d)% \|", capsys.readouterr().out, re.M)
    assert [name for name, _ in rows] == ["motion alone", "with re-ID"]
    assert all(50 < float(share) <= 100 for _, share in rows)
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.size == (WIDTH, 5 * HEIGHT // 2)


def test_a_threshold_that_the_model_does_not_list_is_refused(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert exit_code_of(lambda: main(["--model", str(exported), "--far", "0.5"])) == USER_MISTAKE
    assert "--max_distance" in caplog.text


def test_the_example_of_the_page_tracks(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/tracking.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    card = Predictor(exported).card
    assert card is not None
    far = card.thresholds[0].far
    for written, here in (("runs/first/model.onnx", str(exported)), ("far == 0.01", f"far == {far}")):
        assert written in code
        code = code.replace(written, here)
    exec(code.replace("frames=20", "frames=4"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("package", consumers.PACKAGES)
def test_an_example_names_the_package_that_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    call = [package, "--model", "model.onnx"]
    assert exit_code_of(lambda: consumers.main(call)) == USER_MISTAKE
    assert f"pip install {package}" in caplog.text
