"""The service's routes."""

import hashlib
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response

from deploy.gallery.gallery import Gallery, Item, Match, UnknownIdError
from deploy.predictor import Predictor
from deploy.serve.counters import Counters
from deploy.serve.errors import RequestError
from deploy.serve.limits import Limits
from deploy.serve.middleware import Middleware
from deploy.serve.request_parsing import IdBody, ImagesBody, cancel_on_disconnect, is_json, parse_json, read_body
from deploy.serve.service import SearchQuery, Service

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {
    "/": "page.html",
    "/docs": "docs.html",
    **{f"/{name}": name for name in ("page.css", "page.js", "docs.js")},
}
FLOATS = "application/octet-stream"
IMAGE_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"BM": "image/bmp"}
"""First bytes of the image files that are read, and their media types."""


def create_app(
    predictor: Predictor,
    gallery: Gallery,
    folder: Path,
    limits: Limits,
    *,
    hosts: Collection[str] = (),
    token: str = "",
    threads: int = 2,
) -> Middleware:
    """The service as an ASGI application.

    Args:
        predictor: embeds.
        gallery: is searched; the caller closes it.
        folder: where images lie that the gallery does not store itself.
        limits: of what clients may ask.
        hosts: names the service is reached by; () = any.
        token: that clients must send; "" = none.
        threads: that decode and search.
    """
    counters = Counters(lambda: len(gallery), lambda: service.batcher.num_waiting)
    service = Service(predictor, gallery, folder, limits, threads, counters.batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # FastAPI's own pages load scripts from other hosts; /docs is our page.
    app = FastAPI(title="Person re-identification", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(UnknownIdError, _unknown)
    app.add_exception_handler(Exception, _failed)
    _add_network_routes(app, service)
    _add_gallery_routes(app, service)
    _add_status_routes(app, service, counters)
    _add_pages(app)
    return Middleware(app, limits, counters, hosts, token)


def _body_of(*keys: str) -> dict[str, Any]:
    """A body in OpenAPI: an image, or a JSON object with some keys."""
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
        images = parse_json(body, ImagesBody).images if is_json(request) else [body]
        rows = await cancel_on_disconnect(request, service.embed(images))
        if request.headers.get("accept") == FLOATS:
            shape = f"{rows.shape[0]},{rows.shape[1]}"
            return Response(rows.astype("<f4").tobytes(), media_type=FLOATS, headers={"X-Shape": shape})
        answer = {"embeddings": rows.tolist(), "dim": rows.shape[1], "model": service.predictor.digest}
        return JSONResponse(answer)

    @app.post("/search", openapi_extra=_body_of("id"))
    async def search(request: Request, query: Annotated[SearchQuery, Query()]) -> dict[str, Any]:
        """The gallery's images nearest to an image, or to one of its own: {"id": 7}, which is then left out."""
        if query.k > service.limits.max_results:
            raise RequestError(422, f"k: {query.k}; at most {service.limits.max_results}")
        body = await read_body(request, service.limits)
        if is_json(request):
            matches = await service.search_from(query, parse_json(body, IdBody).id)
        else:
            (vector,) = await cancel_on_disconnect(request, service.embed([body]))
            matches = await service.search(query, vector)
        return {
            "matches": [_to_json(match.id, match.item, match) for match in matches],
            "gallery": len(service.gallery),
        }


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
        """Add an image to the gallery, which stores it."""
        body = await read_body(request, service.limits)
        name = name or f"upload-{hashlib.sha256(body).hexdigest()[:16]}"
        item = Item(name, camid, time.time() if taken is None else taken)
        return _to_json(await service.add(body, item), item)

    @app.get("/gallery/{id}")
    def item(id: int) -> dict[str, Any]:
        """Name, camera and time of an image."""
        return _to_json(id, service.gallery.item(id))

    @app.get("/gallery/{id}/image")
    def image(id: int) -> Response:
        """The image itself."""
        content = service.image(id)
        kinds = [kind for start, kind in IMAGE_TYPES.items() if content.startswith(start)]
        return Response(content, media_type=kinds[0] if kinds else FLOATS)

    @app.delete("/gallery/{id}", status_code=204)
    def remove(id: int) -> Response:
        """Remove an image; a file in the folder stays, and is added again at the next start."""
        service.gallery.remove([id])
        return Response(status_code=204)


def _add_status_routes(app: FastAPI, service: Service, counters: Counters) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service answers."""
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """The model, its metrics, and the distances up to which two images are taken for one person."""
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
    def cameras() -> dict[str, list[int]]:
        """The cameras of the gallery."""
        return {"cameras": service.gallery.cameras()}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    for path, name in PAGE_FILES.items():

        async def page(file: Path = PAGE / name) -> FileResponse:
            return FileResponse(file)

        app.add_api_route(path, page, include_in_schema=False, response_model=None)


def _to_json(id_: int, item: Item, match: Match | None = None) -> dict[str, Any]:
    """An image of the gallery in an answer."""
    fields = {"id": id_, "name": item.name, "camid": item.camid, "time": item.time, "image": f"/gallery/{id_}/image"}
    return fields if match is None else {**fields, "distance": round(max(0.0, match.distance), 6)}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _unknown(_: Request, error: Exception) -> Response:
    return RequestError(404, f"there is no image {error} in the gallery").response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)


async def _failed(request: Request, _: Exception) -> Response:
    return JSONResponse({"error": f"internal error; the service's log has it as {request.scope['failure']}"}, 500)
