"""Sampling as the tables write it: "32*2"."""

import json

import pytest

from data.options import BatchSampling

FORM = 'expected an object, or identities*images such as "32*2", got'


def sampling(class_balanced: bool, p: int, k: int) -> BatchSampling:
    return BatchSampling(class_balanced=class_balanced, P=p, K=k)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32*2", sampling(True, 32, 2)),
        ("8*4", sampling(True, 8, 4)),
        ("48*3", sampling(True, 48, 3)),
        ("64*1", sampling(False, 64, 1)),
    ],
)
def test_a_text_is_identities_times_images(desk, text, expected):
    for params, notes in (
        desk.load({"batch_sampling_params": text}),
        desk.load({}, f"batch_sampling_params={text}"),
        desk.load({"batch_sampling_params": {"class_balanced": True, "P": 2, "K": 9}}, f"batch_sampling_params={text}"),
    ):
        assert params.batch_sampling_params == expected
        assert params.batch_images == expected.P * expected.K
        assert notes == ()


@pytest.mark.parametrize(
    "text",
    ["32x2", "0*4", "4*0", "3*", "*3", "", "32", "32*2*1", "-3*2", "32 * 2", "3.5*2", "٣*2", "32*2\n", "9999999*2"],
)
def test_another_text_is_told_the_form(desk, text):
    shown = json.dumps(text, ensure_ascii=False)
    assert desk.mistakes({"batch_sampling_params": text}) == [f"params.json: batch_sampling_params: {FORM} {shown}"]
    if not text.isdigit():
        assert desk.mistakes({}, f"batch_sampling_params={text}") == [f"--set: batch_sampling_params: {FORM} {shown}"]


def test_the_last_layer_s_text_replaces_the_whole_section(desk):
    desk.write({"batch_sampling_params": {"clas_balanced": True, "K": 4}}, "a.json")
    desk.write({"extends": "a.json", "batch_sampling_params": "64*1"}, "b.json")
    assert desk.load({"extends": "b.json"}).params.batch_sampling_params == sampling(False, 64, 1)
    assert desk.load({"extends": "a.json"}, "batch_sampling_params=8*4").params.batch_sampling_params == sampling(
        True, 8, 4
    )


def test_an_object_changes_what_an_earlier_text_says(desk):
    desk.write({"batch_sampling_params": "32*2"}, "a.json")
    desk.write({"extends": "a.json", "batch_sampling_params": {"K": 4}}, "b.json")
    assert desk.load({"extends": "b.json"}).params.batch_sampling_params == sampling(True, 32, 4)
    assert desk.load({"extends": "b.json"}, "batch_sampling_params.P=8").params.batch_sampling_params == sampling(
        True, 8, 4
    )


def test_overrides_are_layers_in_their_own_order(desk):
    text, number = "batch_sampling_params=32*2", "batch_sampling_params.K=4"
    content = {"batch_sampling_params": {"class_balanced": False, "P": 7, "Q": 7}}
    assert desk.load(content, text, number).params.batch_sampling_params == sampling(True, 32, 4)
    assert desk.load(content, number, text).params.batch_sampling_params == sampling(True, 32, 2)


def test_the_predecessor_s_batch_size_stands_in_the_section_that_is_replaced(desk):
    desk.write({"batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2, "batch_size": 8}}, "old.json")
    assert desk.load({"extends": "old.json", "batch_sampling_params": "64*1"}).params.batch_images == 64
    assert desk.load({"extends": "old.json"}, "batch_sampling_params=32*2").params.batch_images == 64


def test_a_text_says_how_many_images_a_batch_has_whatever_an_earlier_layer_says(desk):
    desk.write({"batch_size": 9}, "new.json")
    assert desk.load({"extends": "new.json", "batch_sampling_params": "64*1"}).params.batch_images == 64
    assert desk.load({"extends": "new.json"}, "batch_sampling_params=64*1", "batch_size=64").params.batch_size == 64
    assert desk.load({"batch_sampling_params": "64*1"}, "batch_size=32").params.batch_images == 32
    expected = "batch_size: is 9, but batch_sampling_params says 64 images; leave one of the two out"
    assert desk.mistakes({"batch_size": 9, "batch_sampling_params": "64*1"}) == [f"params.json: {expected}"]


@pytest.mark.parametrize("change", ["P=null", "K={}", "class_balanced=null", "P=3.5"])
def test_a_wrong_override_of_a_text_is_one_mistake(desk, change):
    text = "batch_sampling_params=32*2"
    (line,) = desk.mistakes({}, text, f"batch_sampling_params.{change}")
    assert line.startswith(f"--set: batch_sampling_params.{change.partition('=')[0]}: ")
    (line,) = desk.mistakes({}, text, f"batch_sampling_params.{change}", "batch_size=7")
    assert "batch_sampling_params" in line


@pytest.mark.parametrize("value", [3, None, [32, 2]])
def test_what_is_neither_text_nor_object(desk, value):
    (line,) = desk.mistakes({"batch_sampling_params": value})
    assert line == f"params.json: batch_sampling_params: expected an object, got {json.dumps(value)}"
