import signal

from engine.requests import Asked, Requests
from tests.processes import run_in_processes
from utils.distributed import this_process


def test_a_single_process_gets_its_answer_at_once() -> None:
    requests = Requests()
    assert requests.exchange(Asked(signal.SIGTERM, True)) == Asked(signal.SIGTERM, True)
    assert requests.exchange(Asked()) == Asked()
    assert requests.close() == Asked()


def ask() -> list[Asked]:
    rank, requests = this_process().rank, Requests()
    wishes = [Asked(), Asked(0, rank == 0), Asked(signal.SIGINT if rank == 1 else 0), Asked()]
    answers = [requests.exchange(wish) for wish in wishes]
    return [*answers, requests.close(), requests.close()]


def test_all_processes_get_the_same_answer_one_step_later() -> None:
    first, second = run_in_processes(ask, 2)
    assert first == second
    assert first == [Asked(), Asked(), Asked(0, True), Asked(signal.SIGINT), Asked(), Asked()]
