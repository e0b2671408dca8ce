"""Params from anywhere: the params, or one readable error, whatever is in a file, an override or a checkpoint."""

import collections
import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.legacy_params import SPELLINGS
from config.load import load_eval_params, load_params, params_from_dict
from config.params import Params
from evaluate.core.plugins import plugin_options
from utils.errors import ParamsError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    json.loads(path.read_text()) for path in sorted([ROOT / "params.json", *(ROOT / "recipes").rglob("*.json")])
]
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e-320, 1e308, math.nan, -math.inf),
    *("", "0", "true", "None", "32*2", "soft_margin", "\0", "\ud800", "é\u2028", "a" * 3000, "../x", "market_evaluate"),
    *([], [[]], [None], [1, "a"], [0.1] * 50, {}, {"": 1}, {"type": {}}, {"P": [], "K": {}}, {"lr": {"lr": {}}}),
]
WORDS = [
    *Params.model_fields,
    *(key for spelling in SPELLINGS for key in spelling.keys),
    "extends",
    "$schema",
    "",
    "a.b",
    "\ud800",
    "é",
]


def paths_of(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        yield (*at, name)
        yield from paths_of(value, (*at, name))


def mutated(draw: random.Random) -> dict[str, Any]:
    """Shipped params with up to four values replaced, removed, or others put beside them."""
    tree = deepcopy(draw.choice(EXAMPLES))
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        *above, last = draw.choice([*paths_of(tree), ("epoch",)])
        place: Any = tree
        for name in above:
            place = place[name]
        match draw.randrange(4):
            case 0 if last in place:
                place.pop(last)
            case 1 if isinstance(place, dict):
                place[draw.choice(WORDS)] = deepcopy(draw.choice(STRANGE))
            case 2:
                # Spelt as the predecessor did, in the section where it belongs.
                section, _, name = draw.choice(draw.choice(SPELLINGS).keys).rpartition(".")
                inner = tree.setdefault(section, {}) if section else tree
                if isinstance(inner, dict):
                    inner[name] = deepcopy(draw.choice(STRANGE))
            case _:
                place[last] = deepcopy(draw.choice(STRANGE))
    return tree


def verdict(load: Callable[[], Any]) -> str:
    """ "params", or "refused" with one readable message."""
    try:
        load()
    except ParamsError as error:
        text = str(error)
    else:
        return "params"
    assert text
    assert all(": " in line and line.isprintable() for line in text.splitlines()), text
    text.encode()
    return "refused"


def override_of(draw: random.Random) -> str:
    """What may stand behind --set."""
    name = draw.choice([*WORDS, *(".".join(map(str, path)) for path in paths_of(draw.choice(EXAMPLES)))])
    junk = "".join(draw.choices('=.[]{}",:1ae ', k=draw.randrange(12)))
    return draw.choice((f"{name}={json.dumps(draw.choice(STRANGE))}", f"{name}{junk}", junk))


def content_of(draw: random.Random, names: list[str]) -> bytes:
    """A file: params with mistakes, their text or its bytes damaged, or no params at all."""
    tree = mutated(draw)
    tree.pop("extends", None)
    if draw.random() < 0.3:
        tree["extends"] = draw.choice([*names, "", "missing.json", ".", "\0", 3])
    text = json.dumps(tree)
    place = draw.randrange(len(text))
    damaged = (
        (text[:place] + draw.choice('{}[]",:\\0') + text[place + draw.randint(0, 2) :]).encode(),
        text[:place].encode() + bytes([draw.randrange(256)]) + text[place + 1 :].encode(),
        draw.choice((b"", bytes(9), text[:place].encode(), draw.randbytes(50), text.encode() * 2)),
        draw.choice((b"[", b'{"lr":', b'{"a":[')) * draw.choice((2, 40, 3000)),
        text.encode(draw.choice(("utf-16", "utf-8-sig", "utf-32"))),
    )
    return draw.choice(damaged) if draw.random() < 0.3 else text.encode()


def verdicts(folder: Path, count: int, seed: int) -> collections.Counter[str]:
    """How often fuzzed files, overrides and params of checkpoints give params or are refused."""
    draw = random.Random(seed)
    names = ["a.json", "b.json", "c.json"]
    found = collections.Counter[str]()
    for number in range(count):
        (folder / draw.choice(names)).write_bytes(content_of(draw, names))
        path, overrides = folder / draw.choice(names), [override_of(draw) for _ in range(draw.choice((0, 0, 0, 1, 3)))]
        loader: Callable[..., Any] = load_params if number % 4 else load_eval_params
        found[verdict(partial(loader, path, overrides, plugin_options=plugin_options))] += 1
        found[verdict(partial(params_from_dict, mutated(draw), "model_best.pth", plugin_options))] += 1
    return found


@pytest.mark.parametrize("count", [250, pytest.param(5000, marks=pytest.mark.slow)])
def test_any_file_and_override_gives_params_or_one_message(tmp_path: Path, count: int) -> None:
    found = verdicts(tmp_path, count, seed=2)
    assert found["params"] > 0.04 * count
    assert found["refused"] > 0.4 * count


@given(
    raw=st.dictionaries(
        st.sampled_from(WORDS) | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=2),
            lambda inner: (
                st.lists(inner) | st.dictionaries(st.text(max_size=3) | st.integers(), inner) | st.tuples(inner)
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_any_params_of_a_checkpoint_are_read_or_refused(raw: dict[str, Any]) -> None:
    verdict(lambda: params_from_dict(raw, "model.pth", plugin_options))


def test_the_time_for_many_mistakes_is_proportional_to_their_number(tmp_path: Path) -> None:
    """Each compared with every other would take a minute for this file."""
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"parallels": [[]] * 30_000}))
    with pytest.raises(ParamsError, match="30000 mistakes"):
        load_params(path, plugin_options=plugin_options)
