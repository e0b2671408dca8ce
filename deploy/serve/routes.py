"""What the service does for its routes: embed, search, and keep a gallery."""

import hashlib
import time
from math import inf
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from data.images import read_bytes
from deploy.gallery.gallery import Gallery, Item, Match
from deploy.predictor import Predictor
from deploy.serve.batching import Batcher
from deploy.serve.limits import Limits
from deploy.serve.request_parsing import FORM, JSON, IdBody, Upload, content_type, decode_images, read_images, read_json
from utils.errors import DataError

FLOATS = "application/octet-stream"
IMAGE_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"BM": "image/bmp"}
"""First bytes of the image files that are read, and their media types."""
CameraId = Annotated[int, Field(ge=-(2**63), lt=2**63)]
IMAGES = {"image/*": {}, FORM: {}}
"""Media types of a request's body, for /openapi.json."""


class SearchQuery(BaseModel, allow_inf_nan=False):
    """How many matches of a search are wanted, and which."""

    k: int = Field(default=20, ge=1, le=1000, description="Number of matches.")
    camid: list[CameraId] = Field(default=[], description="Only images of these cameras; none = of all.")
    start: float | None = Field(default=None, description="Taken at or after this time, Unix seconds.")
    end: float | None = Field(default=None, description="Taken at or before this time, Unix seconds.")
    max_distance: float | None = Field(default=None, description="Largest cosine distance, 0 to 2.")


class AddQuery(BaseModel, allow_inf_nan=False):
    """Name, camera and time of images that are added."""

    name: str = Field(default="", max_length=500, description="Unique; default: a form's file name, or a hash.")
    camid: int = Field(default=0, ge=0, lt=2**63, description="Camera; 0 = unknown.")
    time: float | None = Field(default=None, description="Unix seconds; default: now.")


class Routes(NamedTuple):
    """A predictor and a gallery for clients; neither is used elsewhere meanwhile."""

    predictor: Predictor
    gallery: Gallery
    folder: Path
    """Where images lie that the gallery does not store itself."""
    limits: Limits
    batcher: Batcher

    def add_to(self, router: APIRouter) -> None:
        """Make a router answer with the methods of this class."""
        router.post("/embed", openapi_extra=_body(IMAGES))(self.embed)
        router.post("/search", openapi_extra=_body({**IMAGES, JSON: {}}))(self.search)
        router.post("/gallery", openapi_extra=_body(IMAGES), status_code=201)(self.add)
        router.get("/gallery/{id}")(self.item)
        router.get("/gallery/{id}/image")(self.image)
        router.delete("/gallery/{id}", status_code=204)(self.remove)
        router.get("/model")(self.model)
        router.get("/cameras")(self.cameras)

    async def embed(self, request: Request) -> Response:
        """Embeddings of unit length of an image, or of several: a form with files "image".

        With "Accept: application/octet-stream" as float32, little-endian, row by row; the header X-Shape says N, D.
        """
        rows = await self._embed(request, await read_images(request, self.limits.max_images))
        if request.headers.get("accept") == FLOATS:
            shape = f"{rows.shape[0]},{rows.shape[1]}"
            return Response(rows.astype("<f4").tobytes(), media_type=FLOATS, headers={"X-Shape": shape})
        return JSONResponse({"embeddings": rows.tolist(), "dim": rows.shape[1], "model": self.predictor.digest})

    async def search(self, request: Request, query: Annotated[SearchQuery, Query()]) -> dict[str, Any]:
        """The gallery's images nearest to an image, or to one of its own: {"id": 7}, which is then left out."""
        if content_type(request) == JSON:
            id_ = (await read_json(request, IdBody)).id
            return await run_in_threadpool(lambda: self._search(query, self.gallery.vector(id_), without=id_))
        (vector,) = await self._embed(request, await read_images(request, 1))
        return await run_in_threadpool(self._search, query, vector)

    async def add(self, request: Request, query: Annotated[AddQuery, Query()]) -> dict[str, Any]:
        """Add an image, or several, to the gallery, which stores them: all or none."""
        images = await read_images(request, self.limits.max_images)
        if query.name and len(images) > 1:
            raise HTTPException(422, f"name: there are {len(images)} images; leave it out")
        taken = time.time() if query.time is None else query.time
        names = [query.name or one.name or f"upload-{hashlib.sha256(one.content).hexdigest()[:16]}" for one in images]
        items = [Item(name, query.camid, taken) for name in names]
        vectors = await self._embed(request, images)
        try:
            ids = await run_in_threadpool(self.gallery.add, vectors, items, [one.content for one in images])
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        added = [_to_json(id_, item) for id_, item in zip(ids, items, strict=True)]
        return {"images": added} if content_type(request) == FORM else added[0]

    def item(self, id: int) -> dict[str, Any]:
        """Name, camera and time of an image."""
        return _to_json(id, self.gallery.item(id))

    def image(self, id: int) -> Response:
        """The image itself."""
        content = self.gallery.image(id)
        if content is None:
            path = (self.folder / self.gallery.item(id).name).resolve()
            # The file may have been replaced by a link to anywhere.
            if not path.is_relative_to(self.folder.resolve()):
                raise HTTPException(404, "its file is not in the gallery's folder")
            try:
                content = read_bytes(path)
            except DataError:
                raise HTTPException(404, "its file no longer exists") from None
        kinds = [kind for start, kind in IMAGE_TYPES.items() if content.startswith(start)]
        return Response(content, media_type=kinds[0] if kinds else FLOATS)

    def remove(self, id: int) -> None:
        """Remove an image from the gallery; a file of the folder stays, and is added again at the next start."""
        self.gallery.remove([id])

    def model(self) -> dict[str, Any]:
        """The model, its metrics, and the distances up to which two images are taken for one person."""
        predictor, card = self.predictor, self.predictor.card
        return {
            "model": predictor.digest,
            "dim": predictor.embedding_dim,
            "size": [predictor.img_h, predictor.img_w],
            "gallery": len(self.gallery),
            "metrics": {} if card is None else card.measured or card.metrics,
            "thresholds": [] if card is None else [threshold.model_dump() for threshold in card.thresholds],
        }

    def cameras(self) -> dict[str, list[int]]:
        """The cameras of the gallery."""
        return {"cameras": self.gallery.cameras()}

    async def _embed(self, request: Request, images: list[Upload]) -> np.ndarray:
        pixels = await run_in_threadpool(decode_images, images, self.predictor.resize, self.limits.max_pixels)
        return await self.batcher.embed(pixels, request)

    def _search(self, query: SearchQuery, vector: np.ndarray, without: int | None = None) -> dict[str, Any]:
        start = -inf if query.start is None else query.start
        end, farthest = (inf if value is None else value for value in (query.end, query.max_distance))
        k = query.k + (without is not None)
        (matches,) = self.gallery.search(vector[None], k, camids=query.camid, start=start, end=end)
        matches = [one for one in matches if one.distance <= farthest and one.id != without][: query.k]
        return {"matches": [_to_json(one.id, one.item, one) for one in matches], "gallery": len(self.gallery)}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _to_json(id_: int, item: Item, match: Match | None = None) -> dict[str, Any]:
    """An image of the gallery in an answer."""
    fields = {"id": id_, "name": item.name, "camid": item.camid, "time": item.time, "image": f"/gallery/{id_}/image"}
    return fields if match is None else {**fields, "distance": round(max(0.0, match.distance), 6)}
