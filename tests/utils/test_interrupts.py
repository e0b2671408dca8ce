# ruff: noqa: PT012 what is interrupted is a block
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.processes import run_in_processes
from utils import interrupts
from utils.distributed import this_process
from utils.interrupts import Interrupted, Request, StopConsensus, interrupts_noted, interrupts_raised


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")


@pytest.mark.parametrize("block", [interrupts_raised, interrupts_noted])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_with_its_exit_code(
    block: Callable[[], AbstractContextManager[object]], number: int, code: int
) -> None:
    before, completed = signal.getsignal(number), False
    with pytest.raises(Interrupted) as stopped, block():
        send(number)
        completed = True
    assert completed == (block is interrupts_noted)
    assert stopped.value.exit_code == code
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


def test_a_second_signal_stops_at_once() -> None:
    numbers = []
    with pytest.raises(Interrupted), interrupts_noted() as request:
        numbers.append(request.number)
        send(signal.SIGTERM)
        numbers.append(request.number)
        send(signal.SIGINT)
        numbers.append(request.number)
    assert numbers == [0, signal.SIGTERM]


@pytest.mark.usefixtures("torchrun")
def test_signals_repeated_by_torchrun_are_ignored() -> None:
    done = []
    with pytest.raises(Interrupted), interrupts_noted():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        done.append("step")
    with pytest.raises(Interrupted), interrupts_raised():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)
            done.append("cleaned up")
    assert done == ["step", "cleaned up"]


def test_with_several_processes_a_failure_after_a_signal_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="own"), interrupts_noted():
        send(signal.SIGTERM)
        raise RuntimeError("of its own")
    monkeypatch.setattr(interrupts, "is_one_of_several", lambda: True)
    with pytest.raises(Interrupted) as stopped, interrupts_noted():
        send(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")
    assert isinstance(stopped.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError), interrupts_noted():
        raise RuntimeError("without a signal")
    with pytest.raises(ZeroDivisionError), interrupts_noted():
        send(signal.SIGTERM)
        raise ZeroDivisionError


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_raised(), interrupts_noted() as request:
            send(signal.SIGINT)
        assert request.number == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_single_process_gets_its_answer_at_once() -> None:
    consensus = StopConsensus()
    assert consensus.exchange(signal.SIGTERM, True) == Request(signal.SIGTERM, True)
    assert consensus.exchange(0, False) == Request()
    assert consensus.close() == 0


def ask() -> list[Request | int]:
    rank, consensus = this_process().rank, StopConsensus()
    wishes = [Request(), Request(0, rank == 0), Request(signal.SIGINT if rank == 1 else 0), Request()]
    answers = [consensus.exchange(*wish) for wish in wishes]
    return [*answers, consensus.close(), consensus.close()]


def test_all_processes_get_the_same_answer_one_step_later() -> None:
    first, second = run_in_processes(ask, 2)
    assert first == second
    assert first == [Request(), Request(), Request(0, True), Request(signal.SIGINT), 0, 0]
