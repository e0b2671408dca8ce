import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from data.synthetic.canvas import FINENESS, HEIGHT, Canvas
from data.synthetic.figure import draw_person
from data.synthetic.identity import sample_person, sample_twin
from data.synthetic.pose import Pose

YAWS = [turn * math.pi / 4 + 0.1 for turn in range(8)]


def drawn(person, yaw):
    """The figure on white, (HEIGHT, WIDTH, 3) int."""
    layer = Canvas.blank()
    draw_person(Canvas(layer, (32.0, 6.0), HEIGHT * 0.9), person, Pose(yaw, phase=1.0, stride=0.3))
    figure = layer.reduce(FINENESS)
    white = Image.new("RGB", figure.size, "white")
    white.paste(figure, mask=figure.getchannel("A"))
    return np.asarray(white).astype(int)


def changed_pixels(first, second, yaw):
    return int((np.abs(drawn(first, yaw) - drawn(second, yaw)).sum(axis=2) > 60).sum())


@pytest.fixture
def person():
    rng = np.random.default_rng(4)
    options = {"top": "t-shirt", "bottom": "trousers", "pattern": "plain", "bag": "none", "hat": "none"}
    return dataclasses.replace(
        sample_person(rng), **options, top_colour="white", pattern_colour="red", bag_colour="navy"
    )


def test_twins_can_be_told_apart_from_most_sides():
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(40):
        person = sample_person(rng)
        twin = sample_twin(rng, person)
        seen += [changed_pixels(person, twin, yaw) > 40 for yaw in YAWS]
    assert np.mean(seen) > 0.85


@pytest.mark.parametrize("yaw", YAWS)
def test_a_backpack_shows_from_every_side(person, yaw):
    assert changed_pixels(person, dataclasses.replace(person, bag="backpack"), yaw) > 40


def test_a_logo_shows_from_the_front_only(person):
    with_logo = dataclasses.replace(person, pattern="logo")
    assert changed_pixels(person, with_logo, 0.0) > 60
    assert changed_pixels(person, with_logo, math.pi) == 0


def test_eyes_show_from_the_front_only(person):
    bald = dataclasses.replace(person, hair="bald", skin=(240, 206, 178))
    front, back = drawn(bald, 0.0)[:20], drawn(bald, math.pi)[:20]
    assert (front.sum(axis=2) < 450).any()
    assert not (back.sum(axis=2) < 450).any()
