"""uvicorn's HTTP protocol with a size limit for headers, and with header, idle and write timeouts."""

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEADER = 2**16
"""Bytes of a request's line and headers."""
HEADER_SECONDS = 10.0
"""For the headers to arrive; also for the first byte of a connection."""
READING_SECONDS = 30.0
"""For a client to read enough of its answers for more to be written."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; closed if headers are too long or too slow, or answers are not read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_header, self._num_bytes = True, 0
        self._current: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the header timeout."""
        super().connection_made(transport)
        self._idle = self.loop.call_later(HEADER_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; refuse long headers."""
        self._num_bytes += len(data)
        super().data_received(data)
        if self._in_header and self._num_bytes > MAX_HEADER and not self.transport.is_closing():
            self.send_400_response(f"headers of more than {MAX_HEADER} bytes")

    def on_headers_complete(self) -> None:
        """Stop the header timeout; the body has a limit of its own."""
        self._in_header = False
        _stop(self._idle)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count the next bytes as headers of the next request."""
        self._in_header, self._num_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the idle timeout; remaining bytes of the last body do not extend it."""
        super().on_response_complete()
        if self.cycle.response_complete:
            _stop(self._idle)
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._end)

    def pause_writing(self) -> None:
        """Start the write timeout: the client reads more slowly than is written."""
        super().pause_writing()
        self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the write timeout: the client has caught up."""
        super().resume_writing()
        _stop(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and the answers of this connection."""
        super().connection_lost(exc)
        _stop(self._idle)
        _stop(self._unread)
        # uvicorn notifies the newest request only, and would go on to answer the others.
        for cycle in (self._current, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def _end(self) -> None:
        # close() would wait until the client has read everything.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
