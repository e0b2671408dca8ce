import json
from pathlib import Path

import pytest
import torch

import evaluator
from data.features import read_features
from tests.deploy.conftest import Model
from utils.cli import USER_MISTAKE, exit_code_of


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "log_to_screen", lambda: None)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("evaluation_params.verification=true", "evaluation_params.normalisation=branch"),
        # Those that depend on the lengths of the embeddings.
        ("evaluation_params.metric=euclidean", "evaluation_params.flip=true"),
    ],
    ids=lambda settings: " ".join(settings).replace("evaluation_params.", "") or "as trained",
)
def test_an_export_has_the_features_and_metrics_of_its_checkpoint(
    model: Model, exported: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    features, results = [], []
    for path in (exported, model.path):
        outputs = [f"features_path={tmp_path / 'f.npz'}", f"result_log_file={tmp_path / 'result.json'}"]
        evaluator.main([str(path), "--set", "evaluation_params.type=market_evaluate", *outputs, *settings])
        features.append(read_features(tmp_path / "f.npz"))
        results.append(json.loads((tmp_path / "result.json").read_text()))
    for one, other in zip(*features, strict=True):
        assert one.branch_dims == other.branch_dims == (8, 8, 8)
        assert torch.equal(one.pids, other.pids)
        assert torch.allclose(one.features, other.features, rtol=1e-4, atol=1e-4)
        assert one.features.norm(dim=1).std() > 0.01
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=1e-4)
    assert results[0]["counts"] == results[1]["counts"]


def test_an_export_has_one_side_of_the_neck(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    call = [str(exported), "--set", "retrieval_of=features"]
    assert exit_code_of(lambda: evaluator.main(call)) == USER_MISTAKE
    assert "evaluate its checkpoint" in caplog.text


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"nothing")
    assert exit_code_of(lambda: evaluator.main([str(path)])) == USER_MISTAKE
    assert "not an ONNX model" in caplog.text
