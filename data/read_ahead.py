"""A map whose tasks run in threads ahead of time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from utils.process import num_own_cpus

Task = TypeVar("Task")
Result = TypeVar("Result")


def read_ahead(
    task: Callable[[Task], Result], tasks: Iterable[Task], depth: int | None = None
) -> Generator[Result, None, None]:
    """Like map(task, tasks), with up to `depth` tasks running in threads while the caller uses a result.

    When it is closed or fails, tasks that have not begun are dropped.

    Args:
        task: called in several threads at once.
        tasks: its arguments; consumed in the caller's thread, no more than needed.
        depth: number of results in advance; None: the number of threads, but at least 4 and at most 16.

    Raises:
        Exception: what a task raised, when its result is due.
    """
    depth = min(16, max(4, num_own_cpus())) if depth is None else depth
    pool = ThreadPoolExecutor(min(depth, num_own_cpus()))
    pending: deque[Future[Result]] = deque()
    try:
        for argument in tasks:
            pending.append(pool.submit(task, argument))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
