"""Files, overrides and stored params that hold no usable JSON object."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from config.load import load_params, params_from_dict
from utils.errors import ParamsError


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["is empty"]),
        ("[1, 2]", ["JSON object at the top, got a list"]),
        ("NaN", ["JSON object at the top, got NaN"]),
        ('{"epoch": 3,}', ["line 1, column 12: trailing comma before '}'"]),
        ('{"parallels": [\n0,\n]}', ["line 2, column 2: trailing comma before ']'"]),
        ('{"epoch": 3 "img_h": 4}', ["line 1, column 13: expecting ',' delimiter"]),
        ('{\n  "epoch": 3, // long\n}', ["line 2, column 15: JSON has no comments"]),
        ("{'epoch': 3}", ["line 1, column 2: strings need double quotes"]),
        ('{"epoch": 3, "epoch": 4}', ["epoch: duplicate key"]),
        (
            '{"lr": {"base_lr": 1, "base_lr": 2}, "synthetic": {"seed": [{"b": 1, "b": 2}]}}',
            ["lr.base_lr: duplicate key", "synthetic.seed[0].b: duplicate key", "synthetic.seed: expected a whole"],
        ),
        (
            '{"lr": {"base_lr": NaN, "fc_lr": 1e999, "decay_step": [1, -Infinity]}}',
            ["lr.base_lr: expected a finite", "lr.fc_lr: expected a finite", "lr.decay_step[1]: expected a whole"],
        ),
        (
            '{"epoch": 9223372036854775808, "lr": {"base_lr": ' + "1" * 5000 + '}, "img_h": "x"}',
            ["epoch: expected a whole", "lr.base_lr: expected a finite", "img_h: expected a whole"],
        ),
        (r'{"working_dir": "a\ud800"}', [r'working_dir: "a\ud800" holds half a character']),
        (r'{"\udfff": 1}', [r'"\udfff" holds half a character']),
        ('{"extends": "a\\u0000"}', ["extends: ", "the character 0"]),
        ('{"batches_dir": "a\\u0000"}', ["batches_dir: ", "the character 0"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('{"lr": ' * 1000 + "1" + "}" * 1000, ["nested too deeply"]),
        ('{"lr": ' + "[" * 150 + "1" + "]" * 150 + "}", ["nested too deeply"]),
    ],
)
def test_text_that_cannot_be_used(desk, text, lines):
    found = desk.conflicts(text)
    assert len(found) in (1, len(lines))
    assert all(any(words in line for line in found) for words in lines)


def test_a_byte_order_mark_is_no_mistake(desk):
    assert desk.load("\ufeff" + json.dumps({"epoch": 3})).params.epoch == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b'{"a": "\xff"}'), r"is not UTF-8 text \(byte 8\)"),
        (lambda path: path.write_text(" " * 1_000_000), "is empty"),
        (lambda path: path.write_bytes(b"\xff" * 1_000_001), "larger than 1 MB"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to(path), "no such file"),
    ],
)
def test_file_that_cannot_be_read(desk, plugin_options, make, words):
    path = Path("params.json")
    make(path)
    with pytest.raises(ParamsError, match=f"^params.json: {words}"):
        load_params(path, plugin_options=plugin_options)


def test_a_message_lists_200_mistakes_at_most(desk):
    first, *lines, last = desk.mistakes({f"key{number}": 1 for number in range(1000)})
    assert first == "params.json: 1000 mistakes"
    assert len(lines) == 200
    assert "and 800 more" in last


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"lr": value}
    return value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "expected a JSON object at the top, got a list"),
        ({"epoch": 0}, "epoch: expected a number of at least 1, got 0"),
        ({"lr": {"base_lr": math.nan}}, "lr.base_lr: expected a finite number, got NaN"),
        ({"extends": "a.json"}, "extends: unknown key"),
        ({"lr": {1: 3}}, "lr.1: unknown key"),
        ({"working_dir": "\ud800"}, "half a character"),
        ({"working_dir": "a" * 2_000_000}, "larger than 1 MB"),
        (dict.fromkeys(map(str, range(1_000_000))), "larger than 1 MB"),
        ({"epoch": 10**10_000}, "not JSON data: Exceeds the limit"),
        ({"epoch": {1}}, "not JSON data: Object of type set"),
        ({"epoch": torch.ones(1)}, "not JSON data: Object of type Tensor"),
        ({"lr": {(1, 2): 3}}, "not JSON data"),
        (nested(200), "nested too deeply"),
        (nested(100_000), "not JSON data: maximum recursion"),
    ],
)
def test_stored_params_that_cannot_be_used(plugin_options, raw, words):
    with pytest.raises(ParamsError, match=f"^model.pth: .*{words}"):
        params_from_dict(raw, "model.pth", plugin_options)
