"""ASGI middleware: a size limit for bodies, and the time that answers take."""

import time

from fastapi import HTTPException
from prometheus_client import Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Middleware:
    """Refuses bodies of more than so many bytes while they arrive, and observes the seconds that every answer takes."""

    def __init__(self, app: ASGIApp, most: int, seconds: Histogram) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, received = time.monotonic(), 500, 0
        # The server has checked that it is a number.
        declared = int(Headers(scope=scope).get("content-length", "0"))

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive() if declared <= self._most else {}
            received += len(message.get("body", b""))
            if max(declared, received) > self._most:
                raise HTTPException(413, f"a body of more than {self._most:,} bytes", {"Connection": "close"})
            return message

        async def observed_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, limited_receive, observed_send)
        finally:
            # The path of the route: clients could make up endless other paths.
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(route, str(status)).observe(time.monotonic() - start)
