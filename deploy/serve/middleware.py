"""ASGI middleware: what every request passes before its route, and what every answer gets."""

import hmac
import ipaddress
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.serve.counters import Counters
from deploy.serve.errors import RequestError
from deploy.serve.limits import Limits

REMEMBERED = 10_000
"""Client addresses whose rates are stored; the least recent one is dropped first."""
OPEN = ("/", "/page.js", "/page.css", "/docs", "/docs.js", "/health")
"""Paths that need no token: the pages, which ask for it, and the health check."""
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]

logger = logging.getLogger(__name__)


class Middleware:
    """Checks host, origin, token, rate and number of requests; counts them; logs failures, and sets security headers.

    Args:
        app: the application behind it.
        limits: rate, burst and connections.
        counters: count every answer.
        hosts: names the service is reached by, against DNS rebinding. Empty: any.
        token: required as "Authorization: Bearer"; "" = none.
    """

    def __init__(self, app: ASGIApp, limits: Limits, counters: Counters, hosts: Collection[str], token: str) -> None:
        self._app, self._limits, self._counters = app, limits, counters
        self._hosts, self._token = frozenset(hosts), token.encode()
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._num_active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0
        # Identifies an internal error in the log; the client is told only this.
        scope["failure"] = secrets.token_hex(4)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        self._num_active += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_with_headers)
        except RequestError as error:
            await error.response()(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s: %s %s failed", scope["failure"], scope["method"], scope["path"])
        finally:
            self._num_active -= 1
            # The route's own path: clients could request endless other paths.
            route = getattr(scope.get("route"), "path", "none")
            self._counters.request(route, status, time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._hosts and host_of(headers.get(b"host", b"")) not in self._hosts:
            raise RequestError(421, "this service has another host name")
        # A page of another site may send requests through a visitor's browser, though it cannot read the answers.
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise RequestError(403, "requests from pages of other sites are refused")
        client = scope["client"][0] if scope.get("client") else ""
        if (wait := self._wait(client, time.monotonic())) > 0:
            raise RequestError(429, "too many requests from this address", retry_after=math.ceil(wait))
        if self._num_active > self._limits.connections:
            raise RequestError(503, "too many requests at once", retry_after=1)
        if self._token and scope["path"] not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise RequestError(401, "a token is needed: Authorization: Bearer TOKEN")

    def _wait(self, client: str, now: float) -> float:
        """Seconds until this client may send a request; 0 = now, and this request is counted.

        A token bucket: it holds `burst` requests and is refilled at `rate`.
        """
        level, at = self._allowances.pop(client, (float(self._limits.burst), now))
        level = min(float(self._limits.burst), level + (now - at) * self._limits.rate)
        is_allowed = level >= 1
        self._allowances[client] = (level - 1 if is_allowed else level, now)
        if len(self._allowances) > REMEMBERED:
            self._allowances.popitem(last=False)
        return 0.0 if is_allowed else (1 - level) / self._limits.rate


def host_of(header: bytes) -> str:
    """The name in a Host header, without its port."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0].removeprefix("[")
    return text.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
