# ruff: noqa: PT012 what is interrupted is a block
import os
import signal

import pytest

from utils import interrupts
from utils.interrupts import Interrupted, interrupts_noted, interrupts_raised


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_and_has_its_exit_code(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stopped, interrupts_raised():
        send(number)
    assert stopped.value.exit_code == code
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


def test_a_noted_signal_lets_the_work_go_on_until_somebody_looks() -> None:
    done = []
    with pytest.raises(Interrupted), interrupts_noted() as request:
        assert request.number == 0
        send(signal.SIGTERM)
        done.append(request.number)
        raise Interrupted(request.number)
    assert done == [signal.SIGTERM]


def test_a_signal_nobody_looked_at_is_not_forgotten() -> None:
    done = []
    with pytest.raises(Interrupted) as stopped, interrupts_noted():
        send(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    assert stopped.value.number == signal.SIGINT


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with pytest.raises(Interrupted), interrupts_noted():
        send(signal.SIGINT)
        send(signal.SIGINT)
        done.append("never")
    assert done == []
    # torchrun sends every process what it has got already.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(Interrupted), interrupts_noted():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        done.append("the step")
    assert done == ["the step"]


def test_among_several_processes_what_fails_after_a_signal_failed_because_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupts, "is_one_of_several", lambda: True)
    with pytest.raises(Interrupted) as stopped, interrupts_noted():
        send(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")
    assert isinstance(stopped.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError), interrupts_noted():
        raise RuntimeError("of its own")
    with pytest.raises(ZeroDivisionError), interrupts_noted():
        send(signal.SIGTERM)
        raise ZeroDivisionError


def test_a_single_process_hides_no_failure_behind_a_signal() -> None:
    with pytest.raises(RuntimeError, match="of its own"), interrupts_noted():
        send(signal.SIGTERM)
        raise RuntimeError("of its own")


def test_torchrun_s_second_signal_does_not_disturb_the_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    done = []
    with pytest.raises(Interrupted), interrupts_raised():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)
            done.append("cleaned up")
    assert done == ["cleaned up"]


def test_what_the_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_raised(), interrupts_noted() as request:
            send(signal.SIGINT)
        assert request.number == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
