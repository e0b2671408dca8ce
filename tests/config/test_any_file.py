"""Whatever a file holds: params, or one readable error, and never anything else."""

import json
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import load_eval_params, load_params
from config.params import Params
from utils.errors import ParamsError


def json_values(keys: st.SearchStrategy[str]) -> st.SearchStrategy:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["true", "32*2"])
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


CONTENT = {
    "batch_sampling_params": {"class_balanced": True, "P": 4, "K": 2},
    "tri_loss_margin": "soft_margin",
    "lr": {"decay_step": [3, 5], "base_lr": 1e-2},
    "evaluation_params": {"type": "market_evaluate", "ranks": [1, 3]},
}
KEYS = st.text(max_size=5) | st.sampled_from(
    [*Params.model_fields, "extends", "$schema", "epochs", "gpus", "tri_loss_params", "asoftmax_params", "type", "P"]
)


def message_of(load: Callable[[], Any]) -> str:
    """What loading complains of; empty where it gives params."""
    try:
        load()
    except ParamsError as error:
        assert str(error), "an error without a word"  # noqa: PT017
        return str(error)
    return ""


@settings(max_examples=100, deadline=None, database=None)
@given(content=st.dictionaries(KEYS, json_values(KEYS), max_size=6) | json_values(KEYS))
def test_any_json_gives_params_or_one_readable_error(tmp_path_factory, plugin_options, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    for loader in (load_params, load_eval_params):
        message = message_of(lambda loader=loader: loader(path, plugin_options=plugin_options))
        assert all(": " in line for line in message.splitlines())


def test_any_damage_gives_params_or_an_error(desk):
    chance = random.Random(1)
    text = json.dumps(CONTENT)
    outcomes = set()
    for _ in range(150):
        place = chance.randrange(len(text))
        damaged = text[:place] + chance.choice(['"', "}", ",", "1", "\\", "", "null", "\x00"]) + text[place + 1 :]
        message = message_of(lambda damaged=damaged: desk.load(damaged))
        assert message == "" or message.startswith("params.json: ")
        outcomes.add(message)
    assert len(outcomes) > 20
