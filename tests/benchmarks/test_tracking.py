import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import tracking
from benchmarks.tracking_strip import colour_of, marked
from deploy.tracking.scores import Seen
from utils.errors import ParamsError


class ByColours:
    """Stands in for the predictor: the colours of a coarse picture, around their mean."""

    def __init__(self, path: Path) -> None:
        self.card = None

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        small = [np.asarray(Image.fromarray(image).resize((4, 8)), np.float32).reshape(-1) for image in images]
        centred = np.array(small, np.float32).reshape(-1, 96) - 120
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def test_videos_are_tracked_in_all_ways_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "Predictor", ByColours)
    out = tmp_path / "tracking"
    sizes = ["--seeds", "2", "--people", "3", "--frames", "24"]
    tracking.main(["--model", "some.onnx", "--accept", "0.2", *sizes, "--out", str(out)])
    text = out.with_suffix(".md").read_text()
    assert text in capsys.readouterr().out
    assert "model some.onnx, cosine distance at most 0.2 (as told)" in text
    rows = re.findall(r"^\| ([a-zA-Z -]+) \| (\d+\.\d) \| \d+ to \d+ \| (\d+\.\d)% \|", text, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == ["motion alone", "with re-ID", "with an oracle"]
    # A person may be new to an oracle only when it was never seen three times in a row.
    assert float(rows[2][1]) == 0
    assert all(50 < float(idf1) <= 100 for _, _, idf1 in rows)
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size == (2 * (576 + 4) - 4, 20 + 5 * (202 + 4) - 4)


def card(*thresholds: tuple[float, float]) -> Any:
    rows = tuple(SimpleNamespace(far=far, distance=distance) for far, distance in thresholds)
    return SimpleNamespace(card=SimpleNamespace(thresholds=rows))


def test_the_threshold_is_the_cards_unless_told() -> None:
    args = Namespace(accept=None, far=0.01, model=Path("m.onnx"))
    assert tracking.accepted(card((0.1, 0.5), (0.01, 0.3)), args)[0] == 0.3
    args.accept = 0.7
    assert tracking.accepted(card((0.01, 0.3)), args)[0] == 0.7


@pytest.mark.parametrize(
    ("predictor", "known"),
    [(card((0.1, 0.5)), "card has 0.1"), (card(), "tells none"), (SimpleNamespace(card=None), "tells none")],
)
def test_a_card_without_the_threshold_is_told(predictor: Any, known: str) -> None:
    args = Namespace(accept=None, far=0.01, model=Path("m.onnx"))
    with pytest.raises(ParamsError, match=rf"m\.onnx.*rate of 0\.01; the model.* {known}[,;].*--accept"):
        tracking.accepted(predictor, args)


def test_impossible_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        tracking.parse_arguments(["--model", "m.onnx", "--seeds", "0"])
    assert exit_info.value.code == 2
    assert "--seeds" in capsys.readouterr().err


def test_tracks_differ_in_colour_and_are_drawn_where_they_are() -> None:
    colours = [colour_of(number) for number in range(1, 13)]
    assert min(np.abs(np.subtract(a, b)).max() for i, a in enumerate(colours) for b in colours[:i]) > 25
    frame = np.full((100, 100, 3), 255, np.uint8)
    picture = np.asarray(marked(frame, Seen(np.array([4]), np.array([[20.0, 40.0, 30.0, 50.0]]))))
    assert tuple(picture[60, 20]) == colour_of(4)
    assert (picture[60, 30] == 255).all()
