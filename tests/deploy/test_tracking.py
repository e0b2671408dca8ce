import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deploy.tracking.boxes import crop, overlaps
from deploy.tracking.motion import GATE, begin, predict, surprise, update
from deploy.tracking.scores import Seen, clear_mot, idf1
from deploy.tracking.tracker import Track, Tracker, _matched

ROOT = Path(__file__).resolve().parents[2]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(10, 50, (count, 2))], axis=1)


class TestBoxes:
    def test_overlap_is_that_of_the_pixels(self) -> None:
        rng = np.random.default_rng(0)
        first, second = random_boxes(rng, 6).round(), random_boxes(rng, 5).round()

        def mask(box: np.ndarray) -> np.ndarray:
            image = np.zeros((120, 120), bool)
            x, y, w, h = box.astype(int)
            image[y : y + h, x : x + w] = True
            return image

        expected = [[(mask(a) & mask(b)).sum() / (mask(a) | mask(b)).sum() for b in second] for a in first]
        np.testing.assert_allclose(overlaps(first, second), expected)

    def test_nothing_overlaps_with_nothing(self) -> None:
        assert overlaps(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
        assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))) == 0

    def test_a_crop_ends_where_the_image_does(self) -> None:
        image = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
        np.testing.assert_array_equal(crop(image, np.array([-5.0, 2.0, 8.0, 30.0])), image[2:, :3])
        np.testing.assert_array_equal(crop(image, np.array([4.0, 1.0, 3.0, 5.0])), image[1:6, 4:7])

    def test_a_box_outside_of_the_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"box \(20, 0, 5, 5\) lies outside of the image of 20 x 10 pixels"):
            crop(np.zeros((10, 20, 3), np.uint8), np.array([20.0, 0.0, 5.0, 5.0]))


def joint_filter(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published filter, one of eight dimensions: mean (8,), covariance (8, 8) after all (N, 4) boxes."""

    def observed(box: np.ndarray) -> np.ndarray:
        return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2, box[2] / box[3], box[3]])

    step = np.eye(8) + np.eye(8, k=4)
    see = np.eye(4, 8)
    h = boxes[0][3]
    mean = np.concatenate([observed(boxes[0]), np.zeros(4)])
    covariance = np.diag(np.square([h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]))
    for box in boxes[1:]:
        h = mean[3]
        noise = np.diag(np.square([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]))
        mean, covariance = step @ mean, step @ covariance @ step.T + noise
        h = mean[3]
        spread = see @ covariance @ see.T + np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))
        gain = covariance @ see.T @ np.linalg.inv(spread)
        mean = mean + gain @ (observed(box) - see @ mean)
        covariance = covariance - gain @ spread @ gain.T
    return mean, covariance


class TestMotion:
    def test_four_small_filters_are_the_published_one(self) -> None:
        rng = np.random.default_rng(1)
        boxes = np.array([100.0, 50, 40, 90]) + np.arange(12)[:, None] * [6, 1, 0, 0.5] + rng.normal(0, 2, (12, 4))
        motion = begin(boxes[0])
        for box in boxes[1:]:
            motion = update(predict(motion), box)
        mean, covariance = joint_filter(boxes)
        np.testing.assert_allclose(motion.mean.T.ravel(), mean)
        for k in range(4):
            np.testing.assert_allclose(motion.covariance[k], covariance[np.ix_([k, k + 4], [k, k + 4])], atol=1e-12)

    def test_a_steady_walk_is_foreseen(self) -> None:
        motion = begin(np.array([0.0, 0, 40, 80]))
        for frame in range(1, 30):
            motion = update(predict(motion), np.array([7.0 * frame, 0, 40, 80]))
        np.testing.assert_allclose(predict(motion).box, [7.0 * 30, 0, 40, 80], atol=0.5)

    def test_the_gate_lets_in_what_is_near_and_widens_while_nothing_is_seen(self) -> None:
        motion = predict(update(predict(begin(np.array([0.0, 0, 40, 80]))), np.array([0.0, 0, 40, 80])))
        boxes = np.array([[3.0, 0, 40, 80], [60.0, 0, 40, 80]])
        assert list(surprise(motion, boxes) < GATE) == [True, False]
        for _ in range(15):
            motion = predict(motion)
        assert list(surprise(motion, boxes) < GATE) == [True, True]
        assert surprise(motion, np.zeros((0, 4))).shape == (0,)


PLACES = {"left": [0.0, 0, 10, 20], "right": [100.0, 0, 10, 20], "far": [500.0, 0, 10, 20]}


def seen(**where: int) -> Seen:
    """A frame with ids at named places."""
    return Seen(np.array(list(where.values()), dtype=int), np.array([PLACES[p] for p in where]).reshape(-1, 4))


class TestClearMot:
    def test_the_same_tracks_all_along_are_no_mistake(self) -> None:
        truth, found = [seen(left=1, right=2)] * 3, [seen(left=7, right=9)] * 3
        assert clear_mot(truth, found) == (6, 0, 0, 0)
        assert clear_mot(truth, found).mota == 1
        assert idf1(truth, found) == 1

    def test_two_tracks_that_change_places_are_two_switches(self) -> None:
        truth, found = [seen(left=1, right=2)] * 3, [seen(left=7, right=9)] * 2 + [seen(left=9, right=7)]
        assert clear_mot(truth, found) == (6, 0, 0, 2)
        assert idf1(truth, found) == 4 / 6

    def test_a_new_track_after_a_gap_is_a_switch_and_the_old_one_is_not(self) -> None:
        truth = [seen(left=1)] * 3
        assert clear_mot(truth, [seen(left=7), seen(), seen(left=8)]) == (3, 1, 0, 1)
        assert clear_mot(truth, [seen(left=7), seen(), seen(left=7)]) == (3, 1, 0, 0)

    def test_missed_and_false_boxes_are_told_apart(self) -> None:
        counts = clear_mot([seen(left=1, right=2)], [seen(left=7, far=9)])
        assert counts == (2, 1, 1, 0)
        assert counts.mota == 0

    def test_a_match_holds_though_another_track_fits_better(self) -> None:
        box, near = [0.0, 0, 10, 20], [0.0, 2, 10, 20]
        truth = [Seen(np.array([1]), np.array([box]))] * 2
        found = [Seen(np.array([7]), np.array([near])), Seen(np.array([7, 8]), np.array([near, box]))]
        assert clear_mot(truth, found) == (2, 0, 1, 0)
        assert clear_mot(truth[1:], found[1:]).switches == 0

    def test_as_many_as_possible_are_matched(self) -> None:
        # Two of the tracks have the very boxes of two persons; the third person would go without one.
        truth = [Seen(np.array([1, 2, 3]), np.array([[0.0, y, 10, 20] for y in (0, 6, 12)]))]
        found = [Seen(np.array([7, 8, 9]), np.array([[0.0, y, 10, 20] for y in (-6, 0, 6)]))]
        assert clear_mot(truth, found) == (3, 0, 0, 0)

    def test_a_video_without_anybody_has_no_score(self) -> None:
        assert math.isnan(clear_mot([seen()], [seen()]).mota)
        assert math.isnan(idf1([seen()], [seen()]))
        assert math.isnan(idf1([], []))
        assert idf1([seen(left=1)], [seen()]) == 0


def slow_idf1(truth: list[Seen], found: list[Seen]) -> float:
    """By trying every way to give tracks to persons."""
    people = sorted({int(i) for frame in truth for i in frame.ids})
    tracks = sorted({int(i) for frame in found for i in frame.ids})
    boxes = sum(len(frame.ids) for frame in [*truth, *found])
    best = 0
    for given in itertools.permutations([*tracks, *[None] * len(people)], len(people)):
        agreeing = 0
        for person, track in zip(people, given, strict=True):
            for true, other in zip(truth, found, strict=True):
                for i in np.flatnonzero(true.ids == person):
                    for j in np.flatnonzero(other.ids == (-1 if track is None else track)):
                        agreeing += overlaps(true.boxes[[i]], other.boxes[[j]])[0, 0] >= 0.5
        best = max(best, agreeing)
    return 2 * best / boxes


@pytest.mark.parametrize("seed", range(8))
def test_idf1_is_the_best_of_all_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.array([[30.0 * k, 0, 20, 20] for k in range(4)])

    def frames(ids: int) -> list[Seen]:
        counts = rng.integers(0, ids + 1, 6)
        return [
            Seen(rng.permutation(ids)[:n], places[rng.permutation(4)[:n]] + rng.uniform(-3, 3, (n, 4))) for n in counts
        ]

    truth, found = frames(3), frames(4)
    assert idf1(truth, found) == pytest.approx(slow_idf1(truth, found))


RED, BLUE = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


def at(*xs: float) -> np.ndarray:
    return np.array([[x, 0.0, 40.0, 80.0] for x in xs]).reshape(-1, 4)


def crossing(bounce: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and embeddings of two who meet: they pass, or turn round and go back; hidden while they meet."""
    frames = []
    for frame in range(-14, 15):
        away = 8.0 * abs(frame)
        first = -away if bounce else 8.0 * frame
        if abs(frame) <= 1:
            frames.append((at(first), RED[None]))
        else:
            frames.append((at(first, -first), np.stack([RED, BLUE])))
    return frames


class TestTracker:
    def test_a_number_comes_with_the_third_sight(self) -> None:
        tracker = Tracker()
        assert [tracker.step(at(5.0 * k)).tolist() for k in range(5)] == [[0], [0], [1], [1], [1]]

    def test_who_is_seen_once_gets_no_number(self) -> None:
        tracker = Tracker(confirm=2)
        for boxes in (at(0), at(), at(0)):
            assert not tracker.step(boxes).any()
        assert tracker.step(at(0)).tolist() == [1]

    def test_the_order_of_detections_does_not_matter(self) -> None:
        tracker = Tracker(confirm=1)
        assert tracker.step(at(0, 200)).tolist() == [1, 2]
        assert tracker.step(at(200, 0)).tolist() == [2, 1]

    @pytest.mark.parametrize("bounce", [False, True])
    def test_appearance_tells_whether_two_passed_or_turned_back(self, bounce: bool) -> None:
        tracker = Tracker(0.3, confirm=1)
        numbers = [tracker.step(boxes, looks) for boxes, looks in crossing(bounce)]
        assert numbers[0].tolist() == numbers[-1].tolist() == [1, 2]
        assert all(set(n.tolist()) <= {1, 2} for n in numbers)

    def test_motion_alone_takes_those_who_turned_back_for_those_who_passed(self) -> None:
        tracker = Tracker(confirm=1)
        numbers = [tracker.step(boxes) for boxes, _ in crossing(bounce=True)]
        assert numbers[0].tolist() != numbers[-1].tolist()

    def test_who_comes_back_elsewhere_is_known_by_appearance_only(self) -> None:
        for looks, expected in ((RED[None], 1), (None, 2)):
            tracker = Tracker(0.3, confirm=2)
            for x in (0.0, 5.0, 10.0):
                tracker.step(at(x), looks)
            for _ in range(40):
                tracker.step(at(), None if looks is None else looks[:0])
            assert tracker.step(at(700), looks).tolist() == [0]
            assert tracker.step(at(705), looks).tolist() == [expected]

    def test_who_looks_otherwise_is_somebody_else(self) -> None:
        tracker = Tracker(0.3, confirm=1)
        tracker.step(at(0), RED[None])
        for _ in range(40):
            tracker.step(at(), RED[None][:0])
        assert tracker.step(at(700), BLUE[None]).tolist() == [2]

    def test_who_is_in_sight_does_not_come_back_elsewhere(self) -> None:
        tracker = Tracker(0.3, confirm=2)
        for _ in range(3):
            tracker.step(at(0), RED[None])
        twins = np.stack([RED, RED])
        assert tracker.step(at(0, 700), twins).tolist() == [1, 0]
        assert tracker.step(at(0, 700), twins).tolist() == [1, 2]

    def test_a_match_too_dear_pushes_no_other_aside(self) -> None:
        first, second = (Track(number, begin(at(0)[0]), None) for number in (1, 2))
        cost = np.array([[0.1, 0.28], [0.29, 5.0]])
        assert _matched([first, second], [0, 1], cost, 0.3) == {1: first, 0: second}

    def test_who_comes_back_is_still_known_by_the_looks_of_before(self) -> None:
        tracker = Tracker(0.3, confirm=1)
        for turn in (0.0, 0.72, -0.72):  # radians; 1 - cos is 0.25, and 0.87 between the last two
            looks = (math.cos(turn) * RED + math.sin(turn) * BLUE)[None]
            assert tracker.step(at(400 * turn), looks).tolist() == [1]
            for _ in range(30):
                tracker.step(at(), looks[:0])

    def test_motion_is_trusted_for_some_frames(self) -> None:
        for gap, expected in ((2, 1), (3, 2)):
            tracker = Tracker(confirm=1, coast=2)
            tracker.step(at(0))
            for _ in range(gap):
                tracker.step(at())
            assert tracker.step(at(0)).tolist() == [expected]

    def test_nobody_jumps(self) -> None:
        tracker = Tracker(0.3)
        for _ in range(4):
            tracker.step(at(0), RED[None])
        assert tracker.step(at(700), RED[None]).tolist() == [0]

    def test_appearance_is_the_mean_at_first_and_changes_slowly_later(self) -> None:
        def distance_after(frames: int) -> float:
            tracker = Tracker(0.9, confirm=1)
            for _ in range(frames):
                tracker.step(at(0), RED[None])
            tracker.step(at(0), (0.8 * RED + 0.6 * BLUE)[None])
            appearance = tracker._tracks[0].appearance
            assert appearance is not None
            return float(1 - appearance @ RED)

        mean = (RED + 0.8 * RED + 0.6 * BLUE) / 2
        assert distance_after(1) == pytest.approx(1 - mean[0] / np.linalg.norm(mean))
        mixed = 0.9 * RED + 0.1 * (0.8 * RED + 0.6 * BLUE)
        assert distance_after(50) == pytest.approx(1 - mixed[0] / np.linalg.norm(mixed), rel=1e-4)

    def test_who_is_away_too_long_is_forgotten(self) -> None:
        tracker = Tracker(0.3, confirm=1, coast=2, keep=5)
        tracker.step(at(0), RED[None])
        for _ in range(6):
            tracker.step(at(), RED[None][:0])
        assert tracker.step(at(700), RED[None]).tolist() == [2]

    def test_who_stands_in_the_right_place_but_looks_otherwise_is_somebody_else(self) -> None:
        for refuse, expected in ((1.5, 2), (3.0, 1)):
            tracker = Tracker(0.5, refuse=refuse, confirm=1)
            tracker.step(at(0), RED[None])
            assert tracker.step(at(0), BLUE[None]).tolist() == [expected]

    def test_an_unclear_look_in_the_right_place_is_the_same_person(self) -> None:
        tracker = Tracker(0.2, confirm=1)
        tracker.step(at(0), RED[None])
        between = (0.7 * RED + 0.714 * BLUE)[None]  # at 0.3
        assert tracker.step(at(0), between).tolist() == [1]

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match="boxes"):
            Tracker().step(np.zeros((2, 3)))
        with pytest.raises(ValueError, match="embeddings"):
            Tracker(0.3).step(at(0, 1), RED[None])
        with pytest.raises(ValueError, match="accept"):
            Tracker().step(at(0), RED[None])
        with pytest.raises(ValueError, match="above 0 expected, got 0"):
            Tracker().step(np.array([[0.0, 0, 0, 10]]))
        tracker = Tracker(0.3)
        tracker.step(at(0), RED[None])
        with pytest.raises(ValueError, match="every frame or in none"):
            tracker.step(at(0))
        with pytest.raises(ValueError, match="coast"):
            Tracker(coast=5, keep=4)


class ByColours:
    """Stands in for the predictor: the colours of a coarse picture, around their mean."""

    embedding_dim = 96
    card = SimpleNamespace(thresholds=(SimpleNamespace(far=0.01, distance=0.15),))

    def __init__(self, path: str) -> None:
        assert path == "runs/first/model.onnx"

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        small = [np.asarray(Image.fromarray(image).resize((4, 8)), np.float32).reshape(-1) for image in images]
        centred = np.array(small, np.float32).reshape(-1, 96) - 120
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def test_the_examples_of_the_page_follow_persons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.predictor.Predictor", ByColours)
    page = (ROOT / "docs/tracking.md").read_text()
    names: dict[str, object] = {}
    printed = []
    for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)  # as a reader would run one after the other
        printed.append([[int(n) for n in re.findall(r"\d+", line)] for line in capsys.readouterr().out.splitlines()])
    by_looks, tracked = printed
    assert (len(by_looks), len(tracked)) == (40, 20)
    assert by_looks[0] == list(range(len(by_looks[0])))
    known = set(by_looks[0])
    # The next frame shows the same persons, in another order.
    assert len(known & set(by_looks[1])) >= len(by_looks[1]) / 2
    assert not any(tracked[0])
    assert any(tracked[-1])
    for numbers in by_looks:
        assert len(set(numbers)) == len(numbers)
