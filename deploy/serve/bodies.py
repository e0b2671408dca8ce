"""From the body of a request to pixels, within the limits."""

import asyncio
import base64
import binascii
import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from data.decoding import decode_bytes
from deploy.serve.limits import Limits
from deploy.serve.problems import ProblemError
from utils.errors import DataError

JSON = "application/json"

T = TypeVar("T")


async def read_body(request: Request, limits: Limits) -> bytes:
    """All of a request's body.

    Raises:
        ProblemError: 413 it is too large, as it says or as it turns out; 408 it does not come in time; 400 the client
            has gone, or says a length that is no number.
    """
    most = int(limits.max_body_mb * 2**20)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise ProblemError(400, "Content-Length: a number expected")
    if int(length) > most:
        raise ProblemError(413, f"a body of {int(length):,} bytes; at most {most:,} are read")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise ProblemError(413, f"a body of more than {most:,} bytes")
    except TimeoutError:
        raise ProblemError(408, f"the body did not come within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise ProblemError(400, "the client has gone") from None
    return bytes(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which is given up when the client goes away; for when the body has been read.

    Raises:
        ProblemError: 400, the client has gone.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_client_goes(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ProblemError(400, "the client has gone")
    finally:
        working.cancel()
        gone.cancel()


async def _client_goes(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_json(request: Request) -> bool:
    """Whether a body is JSON, as its type says."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def parsed(body: bytes, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object with no other keys than these.

    Raises:
        ProblemError: 422, it is something else.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(422, f"not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict) or not content or not content.keys() <= set(keys):
        raise ProblemError(422, f"a JSON object with {' or '.join(keys)} expected")
    return content


def images_of(content: dict[str, Any], limits: Limits) -> list[bytes]:
    """The images in {"images": [base64, ...]}; raises a ProblemError, 422, where there are none or too many."""
    texts = content.get("images")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ProblemError(422, "images: a list of base64 texts expected")
    if len(texts) > limits.max_images:
        raise ProblemError(413, f"images: {len(texts)}; at most {limits.max_images} in a request")
    found = []
    for number, text in enumerate(texts):
        try:
            found.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise ProblemError(422, f"image {number}: not base64") from None
    return found


def decoded(contents: Sequence[bytes], height: int, width: int, limits: Limits) -> list[np.ndarray]:
    """Images as the network sees them, (height, width, 3) uint8.

    Raises:
        ProblemError: 422, one cannot be read; says why, and of several which.
    """
    found = []
    for number, content in enumerate(contents):
        try:
            found.append(decode_bytes(content, height, width, max_pixels=limits.max_pixels))
        except DataError as error:
            which = f"image {number}: " if len(contents) > 1 else ""
            raise ProblemError(422, f"{which}{error}") from None
    return found
