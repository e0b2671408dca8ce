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

from config.legacy import SPELLINGS
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
    *(spelling.old for spelling in SPELLINGS),
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


def mutated(draw: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with up to four of its values replaced, removed, moved, or others put beside them."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        *above, last = draw.choice([*paths_of(tree), ("epoch",)])
        place: Any = tree
        for name in above:
            place = place[name]
        match draw.randrange(5):
            case 0 if last != "epoch":
                del place[last]
            case 1 if isinstance(place, dict):
                place[draw.choice(WORDS)] = deepcopy(draw.choice(STRANGE))
            case 2 if isinstance(place, dict) and last in place:
                place[draw.choice(WORDS)] = place.pop(last)
            case 3:
                # Spelt as the predecessor did, in the section where it belongs.
                section, _, name = draw.choice(SPELLINGS).old.rpartition(".")
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


def overrides_of(draw: random.Random) -> list[str]:
    """What may stand behind --set."""
    names = [".".join(map(str, path)) for path in paths_of(draw.choice(EXAMPLES))]
    return [
        draw.choice(
            [
                f"{draw.choice([*names, *WORDS])}={spelt(draw.choice(STRANGE))}",
                f"{draw.choice(names)}{draw.choice(['', '=', '==', '.=1', '=[', '={'])}",
                "".join(draw.choices('=.[]{}",:1ae ', k=draw.randrange(12))),
            ]
        )
        for _ in range(draw.choice((0, 0, 0, 1, 3)))
    ]


def spelt(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def content_of(draw: random.Random, names: list[str]) -> bytes:
    """A file: params with mistakes, their text or its bytes damaged, or no params at all."""
    tree = mutated(draw, draw.choice(EXAMPLES))
    if draw.random() < 0.3:
        tree["extends"] = draw.choice([*names, "", "missing.json", ".", "\0", 3])
    else:
        tree.pop("extends", None)
    text = json.dumps(tree)
    content = bytearray(text, "utf-8")
    match draw.randrange(16):
        case 0:
            place = draw.randrange(len(text))
            return (text[:place] + draw.choice('{}[]",:\\0') + text[place + draw.randint(0, 2) :]).encode()
        case 1:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            return bytes(content)
        case 2:
            return draw.choice(
                (b"", bytes(9), bytes(content[: draw.randrange(len(content))]), draw.randbytes(50), bytes(content * 2))
            )
        case 3:
            return draw.choice((b"[", b'{"lr":', b'{"a":[')) * draw.choice((2, 40, 3000))
        case 4:
            return text.encode(draw.choice(("utf-16", "utf-8-sig", "utf-32")))
        case _:
            return bytes(content)


def verdicts(folder: Path, count: int, seed: int) -> collections.Counter[str]:
    """What becomes of so many loadings of fuzzed files, overrides and checkpoints' params."""
    draw = random.Random(seed)
    names = ["a.json", "b.json", "c.json"]
    found = collections.Counter[str]()
    for number in range(count):
        (folder / draw.choice(names)).write_bytes(content_of(draw, names))
        path, overrides = folder / draw.choice(names), overrides_of(draw)
        loader: Callable[..., Any] = load_params if number % 4 else load_eval_params
        found[verdict(partial(loader, path, overrides, plugin_options=plugin_options))] += 1
        tree = mutated(draw, draw.choice(EXAMPLES))
        found[verdict(partial(params_from_dict, tree, "model_best.pth", plugin_options))] += 1
    return found


def test_any_file_and_override_gives_params_or_one_message(tmp_path: Path) -> None:
    found = verdicts(tmp_path, 250, seed=2)
    assert found["params"] > 10
    assert found["refused"] > 100


@pytest.mark.slow
def test_thousands_of_files_and_overrides(tmp_path: Path) -> None:
    found = verdicts(tmp_path, 5000, seed=2)
    print(dict(found))
    assert found.total() == 10_000


def test_a_file_of_100_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ParamsError, match="larger than 1 MB"):
        load_params(path, plugin_options=plugin_options)


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
