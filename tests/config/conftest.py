"""A folder to write params files in, and a plug-in to name in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from config.evaluation import EvaluationParams
from config.load import Loaded, load_eval_params, load_params
from config.validation import PluginOptions
from utils.errors import ParamsError
from utils.options import Options


class Neighbours(Options):
    """Stands for a section of a plug-in's options."""

    k1: int = 20
    k2: int = 6


class MarketOptions(EvaluationParams):
    """Stands for the options of a plug-in."""

    rerank: bool = False
    neighbours: Neighbours = Neighbours()
    ranks: tuple[int, ...] = (1, 5, 10)
    distance: str = Field("cosine", min_length=1)


def options_of(name: str) -> type[EvaluationParams]:
    if name != "market_evaluate":
        raise ParamsError(f"no plug-in '{name}'; did you mean 'market_evaluate'?")
    return MarketOptions


class Desk:
    """Writes params.json into the current folder and loads it."""

    def write(self, content: Any, name: str = "params.json") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def load(self, content: Any, *overrides: str, loader: Callable[..., Loaded[Any]] = load_params) -> Loaded[Any]:
        return loader(self.write(content), overrides, plugin_options=options_of)

    def load_eval(self, content: Any, *overrides: str) -> Loaded[Any]:
        return self.load(content, *overrides, loader=load_eval_params)

    def mistakes(self, content: Any, *overrides: str, loader: Callable[..., Loaded[Any]] = load_params) -> list[str]:
        with pytest.raises(ParamsError) as caught:
            self.load(content, *overrides, loader=loader)
        return str(caught.value).splitlines()

    def conflicts(self, content: Any) -> list[str]:
        """The mistakes of params.json, without its name and the line that counts them."""
        first, *others = self.mistakes(content)
        assert not others or first == f"params.json: {len(others)} mistakes"
        return [line.removeprefix("params.json: ") for line in others or [first]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk()


@pytest.fixture(scope="session")
def plugin_options() -> PluginOptions:
    return options_of
