"""HTTP as uvicorn speaks it by httptools, but for nobody for ever: uvicorn limits neither what comes before a body nor
the time in which that comes, nor the time in which answers are read."""

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEADER = 2**16
"""Bytes of a request's line and headers."""
HEADER_SECONDS = 10.0
"""In which they must have come; a connection on which nothing comes at all is closed, too."""
READING_SECONDS = 30.0
"""In which a client must have read enough of its answers for more to be written."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It is closed where a header is too long, comes too slowly, or answers are not read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_header, self._num_bytes = True, 0
        self._answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._idle = self.loop.call_later(HEADER_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        self._num_bytes += len(data)
        super().data_received(data)
        if self._in_header and self._num_bytes > MAX_HEADER and not self.transport.is_closing():
            self.send_400_response(f"more than {MAX_HEADER} bytes of header")

    def on_headers_complete(self) -> None:
        """The header is through; its body has a limit of its own."""
        self._in_header = False
        _stop(self._idle)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is through; what comes now is the next header."""
        self._in_header, self._num_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; what still comes of the body of the last one does not prolong that."""
        super().on_response_complete()
        if self.cycle.response_complete:
            _stop(self._idle)
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._end)

    def pause_writing(self) -> None:
        """The client reads more slowly than is written; it has some time to catch up."""
        super().pause_writing()
        self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        _stop(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        _stop(self._idle)
        _stop(self._unread)
        # Uvicorn tells it to the newest request only, and would go on to answer the others to nobody.
        for cycle in (self._answered, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _end(self) -> None:
        # A proper end would wait until what is written has been read.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
