"""The service's routes."""

import hashlib
import math
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response

from deploy.gallery.gallery import Gallery, Item, Match
from deploy.predictor import Predictor
from deploy.serve.bodies import images_of, is_json, parsed, read_body, unless_gone
from deploy.serve.counters import Counters
from deploy.serve.guard import Guard, described
from deploy.serve.limits import Limits
from deploy.serve.problems import ProblemError
from deploy.serve.service import Service, Wanted

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/docs": "docs.html",
    "/docs.js": "docs.js",
}
FLOATS = "application/octet-stream"
IMAGE_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"BM": "image/bmp"}
"""How the images that are read begin, and what they are."""

Matches = Annotated[int, Query(ge=1, description="Matches wanted.")]
Cameras = Annotated[list[int], Query(description="Only images of these cameras; none = of all.")]
Start = Annotated[float | None, Query(allow_inf_nan=False, description="Taken at or after this time, Unix seconds.")]
End = Annotated[float | None, Query(allow_inf_nan=False, description="Taken at or before this time, Unix seconds.")]
Farthest = Annotated[float | None, Query(allow_inf_nan=False, description="At most this far: cosine distance, 0 to 2.")]


def create_app(
    predictor: Predictor,
    gallery: Gallery,
    folder: Path,
    limits: Limits,
    *,
    hosts: Collection[str] = (),
    token: str = "",
    threads: int = 2,
) -> Guard:
    """The service as an ASGI application.

    Args:
        predictor: embeds.
        gallery: is searched; the caller closes it.
        folder: where images lie that the gallery does not keep itself.
        limits: of what clients may ask.
        hosts: names the service goes by; () = any.
        token: that clients must show; "" = none.
        threads: that decode and search.
    """
    counters = Counters(lambda: len(gallery))
    service = Service(predictor, gallery, folder, limits, threads, counters.batch)
    counters.watch(lambda: service.batcher.num_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # Their pages load what they show from elsewhere; ours is /docs.
    app = FastAPI(title="Person re-identification", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(Exception, _failure)
    _add_network_routes(app, service)
    _add_gallery_routes(app, service)
    _add_status_routes(app, service, counters)
    _add_pages(app)
    return Guard(app, limits, counters, hosts, token)


def _body_of(*keys: str) -> dict[str, Any]:
    """What OpenAPI says of a body: an image, or a JSON object with some keys."""
    image = {"type": "string", "format": "binary", "description": "A JPEG, PNG, BMP or WebP."}
    content: dict[str, Any] = {"image/*": {"schema": image}}
    if keys:
        content["application/json"] = {"schema": {"type": "object", "properties": {key: {} for key in keys}}}
    return {"requestBody": {"required": True, "content": content}}


def _add_network_routes(app: FastAPI, service: Service) -> None:
    @app.post("/embed", openapi_extra=_body_of("images"))
    async def embed(request: Request) -> Response:
        """Embeddings of unit length of one image, or of several: {"images": [base64, ...]}.

        With "Accept: application/octet-stream" as float32, little-endian, row by row; the header X-Shape says N, D.
        """
        body = await read_body(request, service.limits)
        images = images_of(parsed(body, ["images"]), service.limits) if is_json(request) else [body]
        rows = await unless_gone(request, service.embed(images))
        if request.headers.get("accept") == FLOATS:
            shape = f"{rows.shape[0]},{rows.shape[1]}"
            return Response(rows.astype("<f4").tobytes(), media_type=FLOATS, headers={"X-Shape": shape})
        answer = {"embeddings": rows.tolist(), "dim": rows.shape[1], "model": service.predictor.digest}
        return JSONResponse(answer)

    @app.post("/search", openapi_extra=_body_of("id"))
    async def search(
        request: Request,
        k: Matches = 20,
        camid: Cameras = [],  # noqa: B006 FastAPI copies it
        start: Start = None,
        end: End = None,
        max_distance: Farthest = None,
    ) -> dict[str, Any]:
        """The gallery's images nearest to an image, or to one of its own: {"id": 7}, which is then left out."""
        if k > service.limits.max_results:
            raise ProblemError(422, f"k: {k}; at most {service.limits.max_results}")
        span = (-math.inf if start is None else start, math.inf if end is None else end)
        wanted = Wanted(k, camid, *span, math.inf if max_distance is None else max_distance)
        body = await read_body(request, service.limits)
        if is_json(request):
            id_ = parsed(body, ["id"])["id"]
            if type(id_) is not int:
                raise ProblemError(422, "id: a whole number expected")
            matches = await service.search(await service.vector(id_), wanted, without=id_)
        else:
            (vector,) = await unless_gone(request, service.embed([body]))
            matches = await service.search(vector, wanted)
        return {"matches": [_told(match.id, match.item, match) for match in matches], "gallery": len(service.gallery)}


def _add_gallery_routes(app: FastAPI, service: Service) -> None:
    @app.post("/gallery", status_code=201, openapi_extra=_body_of())
    async def add(
        request: Request,
        name: Annotated[str, Query(max_length=500, description="Unique; default: from the content.")] = "",
        camid: Annotated[int, Query(ge=0, lt=2**63, description="Camera; 0 = unknown.")] = 0,
        taken: Annotated[
            float | None, Query(alias="time", allow_inf_nan=False, description="Unix seconds; default: now.")
        ] = None,
    ) -> dict[str, Any]:
        """Add an image to the gallery, which keeps it."""
        body = await read_body(request, service.limits)
        name = name or f"upload-{hashlib.sha256(body).hexdigest()[:16]}"
        item = Item(name, camid, time.time() if taken is None else taken)
        return _told(await service.add(body, item), item)

    @app.get("/gallery/{id}")
    async def item(id: int) -> dict[str, Any]:
        """What is known of an image."""
        return _told(id, await service.item(id))

    @app.get("/gallery/{id}/image")
    async def image(id: int) -> Response:
        """The image itself."""
        content = await service.image(id)
        kinds = [kind for start, kind in IMAGE_TYPES.items() if content.startswith(start)]
        return Response(content, media_type=kinds[0] if kinds else FLOATS)

    @app.delete("/gallery/{id}", status_code=204)
    async def remove(id: int) -> Response:
        """Remove an image; a file in the folder stays, and is found again when the service starts anew."""
        await service.remove(id)
        return Response(status_code=204)


def _add_status_routes(app: FastAPI, service: Service, counters: Counters) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service is well."""
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """What the model is, what it reached, and up to which distances two images are of one person."""
        predictor, card = service.predictor, service.predictor.card
        return {
            "model": predictor.digest,
            "dim": predictor.embedding_dim,
            "size": [predictor.img_h, predictor.img_w],
            "gallery": len(service.gallery),
            "metrics": {} if card is None else card.measured or card.metrics,
            "thresholds": [] if card is None else [threshold.model_dump() for threshold in card.thresholds],
        }

    @app.get("/cameras")
    async def cameras() -> dict[str, list[int]]:
        """The cameras of the gallery."""
        return {"cameras": await service.cameras()}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    for path, name in PAGE_FILES.items():

        async def page(file: Path = PAGE / name) -> FileResponse:
            return FileResponse(file)

        app.add_api_route(path, page, include_in_schema=False, response_model=None)


def _told(id_: int, item: Item, match: Match | None = None) -> dict[str, Any]:
    """An image of the gallery as clients see it."""
    told = {"id": id_, "name": item.name, "camid": item.camid, "time": item.time, "image": f"/gallery/{id_}/image"}
    return told if match is None else {**told, "distance": round(max(0.0, match.distance), 6)}


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    status, headers, body = described(error)
    return Response(body, status, dict(headers))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)


async def _failure(request: Request, _: Exception) -> Response:
    return JSONResponse({"error": f"a failure of the service; its log has it as {request.scope['failure']}"}, 500)
