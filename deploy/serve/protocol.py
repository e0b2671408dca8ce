"""HTTP as uvicorn speaks it by httptools, with limits of what comes before a body: uvicorn has none there."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER = 2**16
"""Bytes of a request's line and headers."""
HEADER_SECONDS = 10.0
"""In which they must have come; a connection on which nothing comes at all is closed, too."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It is closed where a header is too long, or comes too slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        self._num_pending: int | None = 0  # bytes of an unfinished header; None amid a body
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEADER_SECONDS, transport.close)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if self._num_pending is not None:
            self._num_pending += len(data)
            if self._num_pending > MAX_HEADER:
                self.send_400_response(f"more than {MAX_HEADER} bytes of header")
                return
            if self._timer is None:
                self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The header is through; its body has a limit of its own."""
        self._num_pending = None
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is through; what comes now is the next header."""
        self._num_pending = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
