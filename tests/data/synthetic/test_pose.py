import math

import pytest

from data.synthetic.pose import View


@pytest.mark.parametrize("yaw", [0.0, 0.4, math.pi / 2, 2.0, math.pi, 5.5])
def test_turning_the_body_keeps_distances(yaw):
    view = View(yaw)
    assert math.hypot(view.x(0.1, 0.2), view.depth(0.1, 0.2)) == pytest.approx(math.hypot(0.1, 0.2))


def test_the_chest_is_nearer_from_the_front_and_farther_from_the_back():
    assert View(0.0).depth(0.0, 0.1) > 0 > View(math.pi).depth(0.0, 0.1)


def test_a_body_seen_from_the_side_is_as_wide_as_it_is_deep():
    assert View(math.pi / 2).half_width(0.12, 0.06) == pytest.approx(0.06)
    assert View(0.0).half_width(0.12, 0.06) == pytest.approx(0.12)
