import json
from pathlib import Path
from typing import Any

import pytest
import torch

import evaluator
from data.features import read_features
from tests.deploy.conftest import Model
from utils.cli import USER_MISTAKE, exit_code_of


def evaluated(model: Path, result: Path, *settings: str) -> dict[str, Any]:
    """What the evaluator writes of a model."""
    evaluator.main([str(model), "--set", f"result_log_file={result}", *settings])
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("evaluation_params.verification=true", "evaluation_params.normalisation=branch"),
        # Those on which the length of an embedding has an influence.
        ("evaluation_params.metric=euclidean", "evaluation_params.flip=true"),
    ],
    ids=lambda settings: " ".join(settings).replace("evaluation_params.", "") or "as trained",
)
def test_an_export_has_the_metrics_of_its_checkpoint(
    model: Model, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    monkeypatch.setattr(evaluator, "log_to_screen", lambda: None)
    settings = ("evaluation_params.type=market_evaluate", *settings)
    results = [evaluated(path, tmp_path / "result.json", *settings) for path in (exported, model.path)]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=1e-4)
    assert results[0]["counts"] == results[1]["counts"]


@pytest.mark.parametrize("flip", ["true", "false"])
def test_an_export_gives_the_features_of_its_checkpoint_with_their_lengths(
    model: Model, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: str
) -> None:
    monkeypatch.setattr(evaluator, "log_to_screen", lambda: None)
    flipped = ("evaluation_params.type=market_evaluate", f"evaluation_params.flip={flip}")
    paths = [tmp_path / "exported.npz", tmp_path / "checkpoint.npz"]
    for subject, path in zip((exported, model.path), paths, strict=True):
        evaluator.main([str(subject), "--set", f"features_path={path}", *flipped])
    found, expected = (read_features(path) for path in paths)
    for one, other in zip(found, expected, strict=True):
        assert one.branch_dims == other.branch_dims == (8, 8, 8)
        assert torch.equal(one.pids, other.pids)
        assert torch.allclose(one.features, other.features, rtol=1e-4, atol=1e-4)
        assert one.features.norm(dim=1).std() > 0.01


def test_a_model_of_another_program_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evaluator, "log_to_screen", lambda: None)
    path = tmp_path / "x.onnx"
    path.write_bytes(b"nothing")
    assert exit_code_of(lambda: evaluator.main([str(path)])) == USER_MISTAKE
    assert "not an ONNX model" in caplog.text
