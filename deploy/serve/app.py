"""The service as an application of FastAPI, and uvicorn as its server."""

import hmac
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from deploy.gallery.gallery import Gallery
from deploy.gallery.items import NameTakenError, NoSpaceError, UnknownIdError, ZeroEmbeddingError
from deploy.predictor import Predictor
from deploy.serve.batching import Batcher
from deploy.serve.limits import Limits
from deploy.serve.middleware import Middleware
from deploy.serve.routes import Routes
from utils.errors import DataError

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STATUS = {
    UnknownIdError: 404,
    NameTakenError: 409,
    ZeroEmbeddingError: 422,
    NoSpaceError: 507,
    DataError: 503,  # the gallery cannot be read or written, such as an object store that cannot be reached
    ClientDisconnect: 400,
    Exception: 500,
}
"""Of the answer to a request that raises an error."""
HEADERS = [
    ("Content-Security-Policy", "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
"""Of every answer."""

logger = logging.getLogger(__name__)


def create_app(
    predictor: Predictor, gallery: Gallery, folder: Path, limits: Limits, *, token: str = "", threads: int = 2
) -> FastAPI:
    """The service.

    Args:
        predictor, gallery: not used elsewhere meanwhile; the caller closes the gallery.
        folder: where images lie that the gallery does not store itself.
        limits: of what clients may send.
        token: that clients must send, except for the pages and /health; "" = none, and local clients only.
        threads: that decode and search.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = threads
        yield

    # FastAPI's own pages load scripts from other hosts; /docs is our page.
    app = FastAPI(title="Person re-identification", lifespan=lifespan, docs_url=None, redoc_url=None)
    registry = CollectorRegistry()
    seconds = Histogram("reid_request_seconds", "Time to answer.", ("route", "status"), registry=registry)
    batches = Histogram("reid_batch_images", "Images embedded at once.", buckets=BATCHES, registry=registry)
    batcher = Batcher(predictor, limits.max_waiting, batches.observe)
    Gauge("reid_gallery_images", "Images in the gallery.", registry=registry).set_function(lambda: len(gallery))
    Gauge("reid_waiting_images", "Images in the queue.", registry=registry).set_function(lambda: len(batcher.queue))
    router = APIRouter(dependencies=[Depends(_guard(token))])
    Routes(predictor, gallery, folder, limits, batcher).add_to(router)

    @router.get("/metrics")
    def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok"}

    app.include_router(router)
    app.mount("/", StaticFiles(directory=Path(__file__).with_name("page"), html=True))
    for kind in (*STATUS, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)
    if not token:
        # Otherwise a page of another site could reach the service by a host name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"], www_redirect=False)
    app.add_middleware(Middleware, most=int(limits.max_body_mb * 2**20), seconds=seconds)
    return app


def serve(app: FastAPI, host: str, port: int, connections: int) -> None:
    """Answer requests until a signal stops it, those in progress first; raises a DataError if it cannot bind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise DataError(f"--host {host} --port {port}: cannot bind: {error.strerror or error}") from error
    config = uvicorn.Config(
        app,
        http="h11",  # unlike httptools, it limits the size of headers
        h11_max_incomplete_event_size=2**16,
        limit_concurrency=connections + 1,  # a request is refused at this number, its own connection included
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,  # for clients that do not read their answers
        ws="none",
        headers=HEADERS,
        server_header=False,
        access_log=False,
        log_level="error",  # below it, uvicorn logs a line for each mistake of a client
    )
    with listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        logger.info("answering at http://%s:%d; Ctrl-C stops it", shown, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def _guard(token: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses requests without the token or, if there is none, those from pages of other sites."""

    async def check(request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if token and not (kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())):
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        origin = request.headers.get("origin")
        if not token and origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise HTTPException(403, "requests from pages of other sites are refused")

    return check


async def _answer_error(_: Request, error: Exception) -> Response:
    """The answer {"error": reason}."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 422)
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    reasons = {404: f"there is no image {error} in the gallery", 500: "internal error; the service's log has it"}
    return JSONResponse({"error": reasons.get(status, str(error))}, status)
