import pytest

import utils.cpus as module
from utils.cpus import num_cpus, num_own_cpus
from utils.torchrun import LOCAL_RANK, LOCAL_WORLD_SIZE, RANK, WORLD_SIZE


def test_processes_of_a_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_own_cpus() == num_cpus() >= 1
    monkeypatch.setattr(module, "num_cpus", lambda: 7)
    for name in (RANK, LOCAL_RANK):
        monkeypatch.setenv(name, "0")
    for processes, own in ((1, 7), (2, 3), (8, 1)):
        for name in (WORLD_SIZE, LOCAL_WORLD_SIZE):
            monkeypatch.setenv(name, str(processes))
        assert num_own_cpus() == own
