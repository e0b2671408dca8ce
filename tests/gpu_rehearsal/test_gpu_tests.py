"""Tests of tests/gpu on the fake GPU: they, too, are right before there is a real one."""

# ruff: noqa: F401, F403
import pytest

from tests.gpu import test_loader
from tests.gpu.test_evaluation import *
from tests.gpu.test_gan import (
    _deterministic,
    test_from_a_state_the_next_steps_are_the_same_bit_for_bit,
    test_no_step_waits_for_the_device,
)
from tests.gpu.test_gpu import *
from tests.gpu.test_loader import *


@pytest.fixture(autouse=True)
def _not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_loader, "BUSY", 16)
