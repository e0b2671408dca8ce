"""What is said about files that are not a JSON object."""

import json
import os
from pathlib import Path

import pytest

from config.load import load_params
from utils.errors import ParamsError

NO_NUMBER = "is not a number a setting can have"
HALF = "holds half a character; no file can store it"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["params.json: is empty, expected a JSON object"]),
        ("[1, 2]", ["params.json: expected a JSON object at the top, got a list"]),
        ("3", ["params.json: expected a JSON object at the top, got 3"]),
        ("NaN", ["params.json: expected a JSON object at the top, got NaN"]),
        ('{"epoch": 3,}', ["params.json: not valid JSON: line 1, column 12: trailing comma before '}'; remove it"]),
        (
            '{"parallels": [\n0,\n]}',
            ["params.json: not valid JSON: line 2, column 2: trailing comma before ']'; remove it"],
        ),
        ('{"epoch": 3 "img_h": 4}', ["params.json: not valid JSON: line 1, column 13: expecting ',' delimiter"]),
        ('{\n  "epoch": 3, // long\n}', ["params.json: not valid JSON: line 2, column 15: JSON has no comments"]),
        ("{'epoch': 3}", ["params.json: not valid JSON: line 1, column 2: texts stand in double quotes"]),
        ('{"epoch": 3, "epoch": 4}', ["params.json: epoch: duplicate key; keep one of them"]),
        (
            '{"lr": {"base_lr": 1, "base_lr": 2}, "parallels": [{"b": 1, "b": 2}]}',
            [
                "params.json: 2 mistakes",
                "params.json: lr.base_lr: duplicate key; keep one of them",
                "params.json: parallels[0].b: duplicate key; keep one of them",
            ],
        ),
        (
            '{"lr": {"base_lr": NaN, "fc_lr": 1e999, "decay_step": [1, -Infinity]}}',
            [
                "params.json: 3 mistakes",
                f"params.json: lr.base_lr: NaN {NO_NUMBER}",
                f"params.json: lr.fc_lr: 1e999 {NO_NUMBER}",
                f"params.json: lr.decay_step[1]: -Infinity {NO_NUMBER}",
            ],
        ),
        ('{"epoch": 9223372036854775808}', [f"params.json: epoch: 9223372036854775808 {NO_NUMBER}"]),
        ('{"epoch": ' + "1" * 5000 + "}", [f"params.json: epoch: {'1' * 57}... {NO_NUMBER}"]),
        (r'{"working_dir": "a\ud800"}', [rf'params.json: working_dir: "a\ud800" {HALF}']),
        (r'{"\udfff": 1}', [rf'params.json: the key "\udfff" {HALF}']),
        ("[" * 100_000, ["params.json: nested more than 32 levels deep"]),
        (
            '{"lr": ' * 50 + "1" + "}" * 50,
            [
                "params.json: 2 mistakes",
                "params.json: lr.lr: nested more than 32 levels deep",
                "params.json: lr.lr: unknown key; did you mean 'lr' at the top level?",
            ],
        ),
        ('{"lr": ' + "[" * 50 + "1" + "]" * 50 + "}", ["params.json: lr[0]: nested more than 32 levels deep"]),
    ],
)
def test_text_that_cannot_be_read(desk, text, lines):
    assert desk.mistakes(text) == lines


def test_a_byte_order_mark_is_no_mistake(desk):
    assert desk.load("\ufeff" + json.dumps({"epoch": 3})).params.epoch == 3


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder, not a JSON file"),
        (lambda path: path.write_bytes(b'{"a": "\xff"}'), "is not UTF-8 text (byte 8); save it as UTF-8"),
        (
            lambda path: path.write_text(" " * 1_000_001),
            "is larger than 1 MB; params files are small, is this the right file?",
        ),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to(path), "no such file"),
    ],
)
def test_file_that_cannot_be_read(desk, plugin_options, make, line):
    path = Path("params.json")
    make(path)
    with pytest.raises(ParamsError) as caught:
        load_params(path, plugin_options=plugin_options)
    assert str(caught.value) == f"params.json: {line}"


def test_a_file_of_nothing_but_mistakes_is_not_repeated(desk):
    first, *lines, last = desk.mistakes({f"key{number}": 1 for number in range(1000)})
    assert first == "params.json: 1000 mistakes"
    assert len(lines) == 200
    assert last == "params.json: and 800 more; is it a params file?"
