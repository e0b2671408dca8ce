"""The spectral transform waits for its epoch and accuracy."""

from typing import Any

import pytest

from engine.spectral import SpectralStart
from models.options import ModelParams


@pytest.mark.parametrize(
    ("options", "acts_in"),
    [
        ({}, []),
        ({"spectral_trans": 0.3}, [0, 1, 2, 3]),
        ({"spectral_trans": 0.3, "spectral_start_epoch": 2}, [2, 3]),
        ({"spectral_trans": 0.3, "spectral_start_accuracy": 0.6}, [3]),
        ({"spectral_trans": 0.3, "spectral_start_epoch": 1, "spectral_start_accuracy": 0.2}, [1, 2, 3]),
        # Reached in the last epoch, so that no epoch is left to act in.
        ({"spectral_trans": 0.3, "spectral_start_accuracy": 0.8}, []),
    ],
)
def test_it_acts_from_its_epoch_and_accuracy_on(
    options: dict[str, Any], acts_in: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spectral, acts = SpectralStart(ModelParams(**options)), []
    for epoch, accuracy in enumerate((0.3, 0.5, 0.7, 0.9)):
        spectral.begin_epoch(epoch)
        if spectral.acts:
            acts.append(epoch)
        spectral.end_epoch(accuracy)
        resumed = SpectralStart(spectral.options)
        resumed.load_state_dict(spectral.state_dict())
        spectral = resumed
    spectral.warn_if_unused()
    assert acts == acts_in
    assert caplog.text.count("acts from epoch") == bool(acts_in)
    assert ("never acted" in caplog.text) == bool(options and not acts_in)
