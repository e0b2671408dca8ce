"""Contestants of a benchmark: objects in processes of their own that take turns, each doing what it is told."""

import logging
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds that a call may take before its process is given up."""


class ContestantError(Exception):
    """What went wrong in a contestant's process, in one line."""


class Contestant:
    """An object made in a new process, to which calls are sent; it does one at a time and idles in between.

    The first call that fails, or takes too long, ends the process; every later call fails with the same message. The
    object is being built from here on, while others are; the first call waits for it.

    Args:
        name: what messages call it.
        build, arguments: make the object, in its process.
    """

    def __init__(self, name: str, build: Callable[..., object], *arguments: object) -> None:
        self.name = name
        self.error: str | None = None
        self.is_built = False
        # A new process, not a copy of this one: what one contestant sets or keeps does not touch another.
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # No daemon, as the workers of a loader are its children.
        self.process = context.Process(target=_serve, args=(theirs, build, arguments), name=name)
        self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + PATIENCE

    def send(self, method: str, *arguments: object) -> None:
        """Begin a call, whose result `receive` waits for.

        Raises:
            ContestantError: as `receive`.
        """
        if not self.is_built:
            self.receive()
            self.is_built = True
        if self.error is not None:
            raise ContestantError(self.error)
        self.deadline = time.monotonic() + PATIENCE
        try:
            self.connection.send((method, arguments))
        except OSError:
            self._fail(f"its process has ended, exit code {self._exit_code()}", "")

    def receive(self) -> Any:
        """The result of the call under way.

        Raises:
            ContestantError: it failed, or its process was killed, or it took too long.
        """
        if self.error is not None:
            raise ContestantError(self.error)
        succeeded, value, details = False, "", ""
        try:
            if not self.connection.poll(max(0.0, self.deadline - time.monotonic())):
                self._fail(f"no answer within {PATIENCE:.0f} s", "")
            succeeded, value, details = self.connection.recv()
        except (EOFError, OSError):
            self._fail(f"its process has ended, exit code {self._exit_code()}", "")
        if not succeeded:
            self._fail(value, details)
        return value

    def ask(self, method: str, *arguments: object) -> Any:
        """Call and wait; raises as `receive`."""
        self.send(method, *arguments)
        return self.receive()

    def stop(self) -> None:
        """End its process: with what it is doing, if it does not end by itself."""
        self.connection.close()
        self.process.join(timeout=2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _exit_code(self) -> int | None:
        self.process.join(timeout=5)
        return self.process.exitcode

    def _fail(self, message: str, details: str) -> None:
        self.error = message
        logger.error("%s: %s\n%s", self.name, message, details)
        self.stop()
        raise ContestantError(message)


def _serve(connection: Connection, build: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """What the process runs: builds the object, then answers calls until nobody sends any."""
    # A spawned process would spawn its own children too; the workers of a loader are to start as they do elsewhere.
    set_start_method(None, force=True)
    try:
        contestant = _answer(connection, build, arguments)
        while True:
            method, arguments = connection.recv()
            _answer(connection, getattr(contestant, method), arguments, tell=True)
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the benchmark has what it wants, or was interrupted


def _answer(connection: Connection, work: Callable[..., Any], arguments: tuple[object, ...], tell: bool = False) -> Any:
    """Do it, and send what came of it: whether it succeeded, the result if it is to be told or the error, details."""
    try:
        result = work(*arguments)
    except Exception as error:
        text = str(error).strip().splitlines()
        connection.send(
            (False, f"{type(error).__name__}: {text[0]}" if text else type(error).__name__, traceback.format_exc())
        )
        raise EOFError from None
    connection.send((True, result if tell else None, ""))
    return result
