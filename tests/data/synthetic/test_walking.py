import math

import numpy as np
import pytest
from PIL import Image

from data.synthetic.identity import sample_people
from data.synthetic.paths import FAR, NEAR, ROOM, Walk, body_height, plan_walk
from data.synthetic.walking import (
    VIDEO_HEIGHT,
    VIDEO_WIDTH,
    Frame,
    Sighting,
    _box,
    _draw_people,
    detections,
    walking_video,
)


@pytest.fixture(scope="module")
def walks() -> list[Walk]:
    rng = np.random.default_rng(0)
    return [plan_walk(rng, 200, VIDEO_WIDTH) for _ in range(60)]


@pytest.fixture(scope="module")
def video() -> list[Frame]:
    return list(walking_video(np.random.default_rng(3), people=6, frames=12))


class TestPaths:
    def test_nobody_jumps(self, walks: list[Walk]) -> None:
        for walk in walks:
            assert np.nanmax(np.abs(np.diff(walk.x))) < 0.1 * NEAR
            assert np.nanmax(np.abs(np.diff(walk.depth))) < 0.1 / ROOM

    def test_depth_stays_in_the_scene(self, walks: list[Walk]) -> None:
        depths = np.concatenate([walk.depth for walk in walks])
        assert np.nanmin(depths) >= 0
        assert np.nanmax(depths) <= 1
        assert (body_height(0.0), body_height(1.0)) == (FAR, NEAR)

    def test_some_leave_and_come_back_and_some_halt_and_turn_back_in_sight(self, walks: list[Walk]) -> None:
        left = [np.isnan(walk.x[np.flatnonzero(~np.isnan(walk.x))[0] :]).any() for walk in walks]
        back = [(np.diff(np.flatnonzero(~np.isnan(walk.x))) > 1).any() for walk in walks]
        turned = [bool(np.nanmin(np.sin(walk.yaw)) < -0.5 and np.nanmax(np.sin(walk.yaw)) > 0.5) for walk in walks]
        halted = [(np.diff(walk.x) == 0).sum() > 3 for walk in walks]
        for some in (left, back, turned, halted):
            assert sum(some) > 10
        assert not all(back)

    def test_who_appears_or_disappears_does_so_outside_of_the_image(self, walks: list[Walk]) -> None:
        for walk in walks:
            there = ~np.isnan(walk.x)
            for frame in np.flatnonzero(np.diff(there.astype(int))):
                edge = walk.x[frame + 1] if there[frame + 1] else walk.x[frame]
                assert not -0.3 * NEAR < edge < VIDEO_WIDTH + 0.3 * NEAR

    def test_faces_look_where_the_walk_leads(self, walks: list[Walk]) -> None:
        for walk in walks:
            speed = np.gradient(walk.x)
            steady = np.abs(np.convolve(np.sign(speed), np.ones(9), "same")) == 9
            assert (np.sign(np.sin(walk.yaw[steady])) == np.sign(speed[steady])).all()

    def test_feet_do_not_slide(self, walks: list[Walk]) -> None:
        checked = 0
        for walk in walks:
            across = np.gradient(walk.x) / (FAR + (NEAR - FAR) * walk.depth)
            speed = np.hypot(across, np.gradient(walk.depth) * ROOM)
            steady = (np.abs(np.gradient(walk.stride)) < 1e-4) & (walk.stride > 0.2)
            for frame in 1 + np.flatnonzero(steady[1:]):
                # Half a turn of the phase is one step; it reaches as far to the front as to the back.
                steps = (walk.phase[frame] - walk.phase[frame - 1]) / math.pi
                assert steps * 2 * 0.47 * math.sin(walk.stride[frame]) == pytest.approx(speed[frame], rel=0.05)
                checked += 1
        assert checked > 1000

    def test_a_short_video_is_planned_too(self) -> None:
        for seed in range(20):
            walk = plan_walk(np.random.default_rng(seed), 1, VIDEO_WIDTH)
            assert walk.x.shape == walk.phase.shape == (1,)


class TestVideo:
    def test_the_same_generator_gives_the_same_video_and_another_does_not(self, video: list[Frame]) -> None:
        again = list(walking_video(np.random.default_rng(3), people=6, frames=12))
        other = next(walking_video(np.random.default_rng(4), people=6, frames=12))
        for first, second in zip(video, again, strict=True):
            np.testing.assert_array_equal(first.pixels, second.pixels)
            assert first.sightings == second.sightings
        assert (other.pixels != video[0].pixels).any()

    def test_frames_and_truth_have_the_promised_form(self, video: list[Frame]) -> None:
        for frame in video:
            assert (frame.pixels.shape, frame.pixels.dtype) == ((VIDEO_HEIGHT, VIDEO_WIDTH, 3), np.uint8)
            pids = [sighting.pid for sighting in frame.sightings]
            assert pids == sorted(set(pids))
            assert set(pids) <= set(range(1, 7))
            assert all(0 < sighting.visible <= 1 for sighting in frame.sightings)
            assert all(box[3] == pytest.approx(2 * box[2]) for _, box, _ in frame.sightings)

    def test_who_is_nearer_hides_who_is_farther(self) -> None:
        rng = np.random.default_rng(5)
        persons = sample_people(rng, 2)

        def standing(depth: float) -> Walk:
            values = {"x": 300.0, "depth": depth, "yaw": 0.0, "phase": 0.0, "stride": 0.0}
            return Walk(**{name: np.array([value]) for name, value in values.items()})

        image = Image.new("RGB", (VIDEO_WIDTH, VIDEO_HEIGHT))
        owners = np.zeros((VIDEO_HEIGHT, VIDEO_WIDTH), np.int32)
        sizes = _draw_people(image, owners, persons, [standing(0.9), standing(0.3)], 0)
        seen = np.bincount(owners.ravel(), minlength=3)
        assert seen[1] == sizes[1]
        assert 0 < seen[2] < 0.7 * sizes[2]

    def test_a_person_at_the_edge_is_seen_in_part(self) -> None:
        person = sample_people(np.random.default_rng(5), 1)
        values = {"depth": 0.5, "yaw": 0.0, "phase": 0.0, "stride": 0.0}
        for x, share in ((0.0, 0.5), (float(VIDEO_WIDTH), 0.5), (-200.0, 0.0), (VIDEO_WIDTH + 200.0, 0.0)):
            walk = Walk(x=np.array([x]), **{name: np.array([value]) for name, value in values.items()})
            owners = np.zeros((VIDEO_HEIGHT, VIDEO_WIDTH), np.int32)
            sizes = _draw_people(Image.new("RGB", (VIDEO_WIDTH, VIDEO_HEIGHT)), owners, person, [walk], 0)
            assert (owners == 1).sum() / sizes[1] == pytest.approx(share, abs=0.15)

    def test_a_box_holds_its_person(self) -> None:
        person = sample_people(np.random.default_rng(6), 1)
        walk = Walk(*(np.array([value]) for value in (400.0, 0.5, math.pi / 2, 1.5, 0.4)))
        owners = np.zeros((VIDEO_HEIGHT, VIDEO_WIDTH), np.int32)
        _draw_people(Image.new("RGB", (VIDEO_WIDTH, VIDEO_HEIGHT)), owners, person, [walk], 0)
        x, y, width, height = _box(person[0], walk, 0)
        rows, columns = np.nonzero(owners)
        inside = (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)
        assert inside.mean() > 0.97
        assert np.ptp(rows) > 0.88 * height


class TestDetections:
    def sightings(self, *visible: float) -> Frame:
        return Frame(
            np.zeros((1, 1, 3), np.uint8),
            tuple(Sighting(pid, (100.0 * pid, 50.0, 40.0, 80.0), share) for pid, share in enumerate(visible, 1)),
        )

    def test_the_hidden_are_not_found(self) -> None:
        boxes, pids = detections(self.sightings(1.0, 0.2, 0.5), np.random.default_rng(0), missed=0.0)
        assert sorted(pids) == [1, 3]
        assert boxes.shape == (2, 4)

    def test_boxes_lie_about_the_truth_in_the_order_of_their_pids(self) -> None:
        rng = np.random.default_rng(0)
        shifts = []
        for _ in range(300):
            boxes, pids = detections(self.sightings(1.0, 1.0, 1.0), rng, missed=0.0)
            shifts.append(boxes[:, 0] + boxes[:, 2] / 2 - (100.0 * pids + 20))
        assert np.std(shifts) == pytest.approx(0.03 * 40, rel=0.15)
        assert abs(np.mean(shifts)) < 0.2

    def test_some_are_missed(self) -> None:
        rng = np.random.default_rng(0)
        found = sum(len(detections(self.sightings(*[1.0] * 10), rng, missed=0.3)[1]) for _ in range(100))
        assert found == pytest.approx(700, rel=0.1)

    def test_nobody_there_gives_empty_arrays(self) -> None:
        boxes, pids = detections(self.sightings(), np.random.default_rng(0))
        assert (boxes.shape, pids.shape) == ((0, 4), (0,))
