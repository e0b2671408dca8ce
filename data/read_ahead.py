"""Work done in threads before its results are asked for."""

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
    """Like map(task, tasks), but up to `depth` tasks are under way in threads while the caller uses a result.

    Args:
        task: what to do; called in several threads at once.
        tasks: its arguments; drawn in the caller's thread, no more than needed.
        depth: results in advance; None: at least 4 and, up to 16, as many as there are threads.

    Once closed or failed, it drops the tasks that were not begun.

    Raises:
        Exception: whatever a task raised, when its result is due.
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
