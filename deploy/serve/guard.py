"""What every request has to pass before a route sees it, and what every answer gets on its way out."""

import hmac
import ipaddress
import json
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.serve.counters import Counters
from deploy.serve.limits import Limits
from deploy.serve.problems import ProblemError

REMEMBERED = 10_000
"""Client addresses whose rates are remembered; the one that was quiet longest is forgotten first."""
OPEN = ("/", "/page.js", "/page.css", "/docs", "/docs.js", "/health")
"""Paths that need no token: the pages, which ask for it, and what a supervisor asks."""
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


class Guard:
    """ASGI middleware: hosts, origins, token, rate, number of requests, counting, and errors without traceback.

    Args:
        app: what is guarded.
        limits: see there.
        counters: get every answer.
        hosts: names the service goes by; a browser led astray by DNS calls it by another. Empty: any.
        token: needed in "Authorization: Bearer"; "" = none.
    """

    def __init__(self, app: ASGIApp, limits: Limits, counters: Counters, hosts: Collection[str], token: str) -> None:
        self._app, self._limits, self._counters = app, limits, counters
        self._hosts, self._token = frozenset(hosts), token.encode()
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0
        # Under which the log has a failure, of which the client is told nothing else.
        scope["failure"] = secrets.token_hex(4)

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        self._under_way += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_noted)
        except ProblemError as problem:
            await _answer(send_noted, problem)
        except Exception:
            logger.exception("%s: %s %s failed", scope["failure"], scope["method"], scope["path"])
        finally:
            self._under_way -= 1
            # The route as the service has it: of the paths that clients make up there is no end.
            route = getattr(scope.get("route"), "path", "none")
            self._counters.request(route, status, time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._hosts and host_of(headers.get(b"host", b"")) not in self._hosts:
            raise ProblemError(421, "this service does not go by that name")
        # A page of another site may send requests through a visitor's browser, though it cannot read the answers.
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise ProblemError(403, "requests from pages of other sites are refused")
        client = scope["client"][0] if scope.get("client") else ""
        if (wait := self._wait(client, time.monotonic())) > 0:
            raise ProblemError(429, "too many requests from this address", retry_after=math.ceil(wait))
        if self._under_way > self._limits.connections:
            raise ProblemError(503, "too many requests at once", retry_after=1)
        if self._token and scope["path"] not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise ProblemError(401, "a token is needed: Authorization: Bearer TOKEN")

    def _wait(self, client: str, now: float) -> float:
        """Seconds until this client may ask again; 0 = now, and this request is counted.

        A token bucket: it holds `burst` requests and fills at `rate`.
        """
        held, at = self._allowances.pop(client, (float(self._limits.burst), now))
        held = min(float(self._limits.burst), held + (now - at) * self._limits.rate)
        allowed = held >= 1
        self._allowances[client] = (held - 1 if allowed else held, now)
        if len(self._allowances) > REMEMBERED:
            self._allowances.popitem(last=False)
        return 0.0 if allowed else (1 - held) / self._limits.rate


def described(problem: ProblemError) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of the answer: {"error": reason}."""
    headers = [("content-type", "application/json")]
    if problem.retry_after:
        headers.append(("retry-after", str(problem.retry_after)))
    if problem.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if problem.status in (408, 413):
        # What is still to come of the request is not read.
        headers.append(("connection", "close"))
    return problem.status, headers, json.dumps({"error": problem.reason}).encode()


async def _answer(send: Send, problem: ProblemError) -> None:
    status, headers, body = described(problem)
    raw = [(name.encode(), value.encode()) for name, value in [*headers, ("content-length", str(len(body)))]]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def host_of(header: bytes) -> str:
    """The name in a Host header, without its port."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0].removeprefix("[")
    return text.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
