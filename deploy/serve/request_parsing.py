"""From the body of a request to pixels, within the limits."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from data.decoding import Resize, decode_bytes
from deploy.serve.errors import RequestError
from deploy.serve.limits import Limits
from utils.errors import DataError

JSON = "application/json"

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)


class ImagesBody(BaseModel):
    """Several encoded images: {"images": [base64, ...]}."""

    model_config = ConfigDict(strict=True, extra="forbid", val_json_bytes="base64")
    images: list[bytes] = Field(min_length=1)


class IdBody(BaseModel):
    """An image of the gallery: {"id": 7}."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: int


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body of a request.

    Raises:
        RequestError: 413, it is larger than allowed, whether declared or not; 408, it does not arrive in time; 400,
            the client has disconnected.
    """
    most = int(limits.max_body_mb * 2**20)
    # The server has checked that it is a number.
    if int(request.headers.get("content-length", "0")) > most:
        raise RequestError(413, f"a body of more than {most:,} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise RequestError(413, f"a body of more than {most:,} bytes")
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise RequestError(400, "the client has disconnected") from None
    return bytes(body)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects; call it after the body has been read.

    Raises:
        RequestError: 400, the client has disconnected.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise RequestError(400, "the client has disconnected")
    finally:
        working.cancel()
        gone.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_json(request: Request) -> bool:
    """Whether the Content-Type of a request is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def parse_json(body: bytes, model: type[Body]) -> Body:
    """A JSON body; raises a RequestError, 422, if it is not what `model` says."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(422, f"{where}: {first['msg']}" if where else first["msg"]) from None


def decode_images(contents: Sequence[bytes], resize: Resize, limits: Limits) -> list[np.ndarray]:
    """Encoded images as the network takes them, (H, W, 3) uint8.

    Raises:
        RequestError: 413, there are too many; 422, one cannot be read: the reason and, of several, its number.
    """
    if len(contents) > limits.max_images:
        raise RequestError(413, f"images: {len(contents)}; at most {limits.max_images} in a request")
    pixels = []
    for number, content in enumerate(contents):
        try:
            pixels.append(decode_bytes(content, resize, max_pixels=limits.max_pixels))
        except DataError as error:
            which = f"image {number}: " if len(contents) > 1 else ""
            raise RequestError(422, f"{which}{error}") from None
    return pixels
