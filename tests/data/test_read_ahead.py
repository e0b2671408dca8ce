import threading
import time

import pytest

from data.read_ahead import read_ahead
from utils.errors import DataError
from utils.process import num_own_cpus


def test_reading_ahead_keeps_the_order_and_stays_within_its_depth() -> None:
    started: list[int] = []

    def task(number: int) -> int:
        started.append(number)
        time.sleep(0.01 if number % 2 else 0.0)
        return number

    results = []
    for result in read_ahead(task, range(20), depth=3):
        results.append(result)
        assert len(started) <= len(results) + 3
    assert results == list(range(20))


def test_reading_ahead_works_in_other_threads_and_passes_errors_on() -> None:
    def task(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        if number == 2:
            raise DataError("image 2")
        return number

    results = read_ahead(task, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="image 2"):
        next(results)


def test_a_reader_who_stops_early_leaves_no_thread_and_no_work_behind() -> None:
    begun, proceed = [], threading.Event()

    def task(number: int) -> int:
        begun.append(number)
        if number:
            proceed.wait(timeout=30)
        return number

    num_before = threading.active_count()
    results = read_ahead(task, range(100), depth=8)
    assert next(results) == 0
    (timer := threading.Timer(0.2, proceed.set)).start()
    results.close()
    timer.join()
    assert threading.active_count() == num_before
    # Number 0, and one task in each thread: those that waited for a thread were dropped.
    assert len(begun) <= 1 + min(8, num_own_cpus())
