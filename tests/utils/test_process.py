import pytest

import utils.process as module
from utils.process import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE, num_cpus, num_own_cpus


def test_processes_of_a_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_own_cpus() == num_cpus() >= 1
    monkeypatch.setattr(module, "num_cpus", lambda: 7)
    for name in (RANK, LOCAL_RANK):
        monkeypatch.setenv(name, "0")
    for processes, own in ((1, 7), (2, 3), (8, 1)):
        for name in (WORLD_SIZE, LOCAL_WORLD_SIZE):
            monkeypatch.setenv(name, str(processes))
        assert num_own_cpus() == own
