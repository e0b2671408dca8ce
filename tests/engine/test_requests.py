import signal

from engine.checkpointing import Request, StopConsensus
from tests.processes import run_in_processes
from utils.distributed import this_process


def test_a_single_process_gets_its_answer_at_once() -> None:
    requests = StopConsensus()
    assert requests.exchange(Request(signal.SIGTERM, True)) == Request(signal.SIGTERM, True)
    assert requests.exchange(Request()) == Request()
    assert requests.close() == Request()


def ask() -> list[Request]:
    rank, requests = this_process().rank, StopConsensus()
    wishes = [Request(), Request(0, rank == 0), Request(signal.SIGINT if rank == 1 else 0), Request()]
    answers = [requests.exchange(wish) for wish in wishes]
    return [*answers, requests.close(), requests.close()]


def test_all_processes_get_the_same_answer_one_step_later() -> None:
    first, second = run_in_processes(ask, 2)
    assert first == second
    assert first == [Request(), Request(), Request(0, True), Request(signal.SIGINT), Request(), Request()]
