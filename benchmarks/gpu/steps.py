"""Steps of a benchmark, each in a process of its own with a time limit; what it has measured by then is kept."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from benchmarks.report import Report, Row
from benchmarks.trainings import last_line
from utils.logs import log_to_screen

FAILED = "failed"
"""Column that holds the last line of an error."""


class Message(NamedTuple):
    """What a step tells: a row of a table, or with `row` None that it begins to measure `name`."""

    caption: str
    name: str
    row: Row | None


class Rows:
    """The tables of a step, seen from inside its process.

    Args:
        send: passes a message on.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.send = send

    def add(self, row: Row, caption: str = "") -> None:
        """Add a row to the table of this caption."""
        self.send(Message(caption, "", row))

    @contextmanager
    def measuring(self, name: str, caption: str = "") -> Iterator[Row]:
        """A row to be filled. After an error it has what was measured before, and the step continues."""
        self.send(Message(caption, name, None))
        row: Row = {"": name}
        try:
            yield row
        except Exception as error:
            traceback.print_exc()
            row[FAILED] = last_line(str(error)) or type(error).__name__
        self.add(row, caption)


def run_step(
    work: Callable[[Rows, Any], None], argument: Any, seconds: float, report: Report, on_row: Callable[[], None]
) -> None:
    """Call `work(rows, argument)` in a new process, and stop that and all it has started when its time is over.

    Args:
        work: a function of a module.
        argument: picklable.
        seconds: the limit.
        report: takes the rows.
        on_row: called after each.
    """

    def add(caption: str, row: Row) -> None:
        report.tables.setdefault(caption, []).append(row)
        on_row()

    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, argument, sender))
    process.start()
    sender.close()
    start, caption, name, failure = time.monotonic(), "", "start", ""
    try:
        while not failure:
            left = start + seconds - time.monotonic()
            ready = wait([receiver, process.sentinel], max(0.0, left)) if left > 0 else []
            if receiver in ready:
                message = receiver.recv()
                caption = message.caption
                if message.row is None:
                    name = message.name
                    report.tables.setdefault(caption, [])  # before those that are added meanwhile
                    print(f"{time.monotonic() - start:5.0f} s  {caption} {name}", file=sys.stderr, flush=True)
                else:
                    add(caption, message.row)
            elif ready:
                break
            else:
                failure = f"stopped after {seconds / 60:.1f} minutes"
    except EOFError:
        process.join(10)  # it is ending
    finally:
        with suppress(ProcessLookupError):  # it has none yet, or has ended without leaving processes behind
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
        receiver.close()
    if not failure and process.exitcode:
        failure = f"exit code {process.exitcode}"
    if failure:
        add(caption, {"": name, FAILED: failure})


def _work(work: Callable[[Rows, Any], None], argument: Any, sender: Connection) -> None:
    os.setsid()
    os.dup2(2, 1)  # standard output is for the tables
    log_to_screen()
    rows = Rows(sender.send)
    try:
        work(rows, argument)
    except Exception as error:
        traceback.print_exc()
        rows.add({"": "the step", FAILED: last_line(str(error)) or type(error).__name__})
