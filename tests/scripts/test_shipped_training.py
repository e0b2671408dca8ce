"""The shipped example keeps its promises. Minutes long: `make test-all`."""

import json
import resource
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT, Script


@pytest.mark.slow
def test_the_shipped_params_learn_to_recognise_persons(script: Script) -> None:
    shutil.copy(ROOT / "params.json", script.folder)
    arguments = ("--operation", "start_train", "--sub_working_dir", "run")
    script.succeed("train.py", *arguments, timeout=1800)
    run = script.folder / "runs" / "run"
    best = max(
        (json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()),
        key=lambda metrics: metrics["mAP"],
    )
    assert best["rank1"] >= 0.85
    assert best["mAP"] >= 0.65
    events = EventAccumulator(str(run))
    events.Reload()
    untrained = events.Scalars("evaluation/rank1")[0]
    assert untrained.step == 0
    assert untrained.value <= 0.3
    # Kilobytes on Linux; the largest of all processes the tests have started.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3 * 2**20
