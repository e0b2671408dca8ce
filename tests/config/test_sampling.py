"""Sampling as the tables write it: "32*2"."""

import pytest

from data.options import BatchSampling


def sampling(class_balanced: bool, p: int, k: int) -> BatchSampling:
    return BatchSampling(class_balanced=class_balanced, P=p, K=k)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("32*2", sampling(True, 32, 2)), ("48*3", sampling(True, 48, 3)), ("64*1", sampling(False, 64, 1))],
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
    "text", ["32x2", "0*4", "4*0", "3*", "*3", "", "32*2*1", "-3*2", "32 * 2", "3.5*2", "٣*2", "32*2\n", "9999999*2"]
)
def test_another_text_is_a_mistake_that_shows_the_form(desk, text):
    form = 'batch_sampling_params: expected an object, or identities*images such as "32*2", got "'
    for line in (*desk.conflicts({"batch_sampling_params": text}), *desk.mistakes({}, f"batch_sampling_params={text}")):
        assert line.removeprefix("--set: ").startswith(form)


def test_a_text_replaces_the_section_of_earlier_layers(desk):
    desk.write({"batch_sampling_params": {"clas_balanced": True, "K": 4}}, "a.json")
    desk.write({"extends": "a.json", "batch_sampling_params": "64*1"}, "b.json")
    assert desk.load({"extends": "b.json"}).params.batch_sampling_params == sampling(False, 64, 1)
    changed = desk.load({"extends": "a.json"}, "batch_sampling_params=8*4").params
    assert changed.batch_sampling_params == sampling(True, 8, 4)


def test_an_object_changes_what_an_earlier_text_says(desk):
    desk.write({"batch_sampling_params": "32*2"}, "a.json")
    desk.write({"extends": "a.json", "batch_sampling_params": {"K": 4}}, "b.json")
    changed = desk.load({"extends": "b.json"}, "batch_sampling_params.P=8").params
    assert changed.batch_sampling_params == sampling(True, 8, 4)


def test_overrides_are_layers_in_their_own_order(desk):
    text, number = "batch_sampling_params=32*2", "batch_sampling_params.K=4"
    content = {"batch_sampling_params": {"class_balanced": False, "P": 7, "Q": 7}}
    assert desk.load(content, text, number).params.batch_sampling_params == sampling(True, 32, 4)
    assert desk.load(content, number, text).params.batch_sampling_params == sampling(True, 32, 2)


@pytest.mark.parametrize("earlier", [{"batch_size": 9}, {"batch_sampling_params": {"P": 4, "K": 2, "batch_size": 8}}])
def test_a_text_replaces_the_batch_size_of_earlier_layers(desk, earlier):
    desk.write(earlier, "earlier.json")
    assert desk.load({"extends": "earlier.json", "batch_sampling_params": "64*1"}).params.batch_images == 64
    assert desk.load({"extends": "earlier.json"}, "batch_sampling_params=32*2").params.batch_images == 64


def test_a_batch_size_beside_a_text_agrees_with_it(desk):
    assert desk.load({"batch_sampling_params": "64*1"}, "batch_size=32").params.batch_images == 32
    assert desk.load({}, "batch_sampling_params=64*1", "batch_size=64").params.batch_size == 64
    (line,) = desk.conflicts({"batch_size": 9, "batch_sampling_params": "64*1"})
    assert line.startswith("batch_size: is 9, but batch_sampling_params says 64 images")


@pytest.mark.parametrize(
    "overrides",
    [
        ("batch_sampling_params=64*1", "batch_size=32"),
        ("batch_size=32", "batch_sampling_params=64*1"),
        ("batch_sampling_params=64*1", "batch_sampling_params.batch_size=32"),
    ],
)
def test_overrides_of_text_and_batch_size_agree_in_any_order(desk, overrides):
    (line,) = desk.mistakes({}, *overrides)
    assert line.startswith("--set: batch_s")
    assert "batch_size: is 32, but batch_sampling_params says 64 images" in line


@pytest.mark.parametrize("change", ["P=null", "K={}", "class_balanced=null", "P=3.5"])
@pytest.mark.parametrize("further", [(), ("batch_size=7",)])
@pytest.mark.parametrize("text", ["32*2", "64*1"])
def test_a_wrong_override_of_a_text_is_one_mistake(desk, change, further, text):
    (line,) = desk.mistakes({}, f"batch_sampling_params={text}", f"batch_sampling_params.{change}", *further)
    assert line.startswith(f"--set: batch_sampling_params.{change.partition('=')[0]}: ")


@pytest.mark.parametrize("value", [3, None, [32, 2]])
def test_what_is_neither_text_nor_object(desk, value):
    (line,) = desk.conflicts({"batch_sampling_params": value})
    assert line.startswith("batch_sampling_params: expected an object, got ")
