"""From the body of a request to encoded images and their pixels."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header

from data.decoding import Resize, decode_bytes
from utils.errors import DataError

JSON, FORM = "application/json", "multipart/form-data"

Body = TypeVar("Body", bound=BaseModel)


class IdBody(BaseModel, strict=True, extra="forbid"):
    """An image of the gallery: {"id": 7}."""

    id: int


class Upload(NamedTuple):
    """An encoded image, and the name of its file if a form has one."""

    content: bytes
    name: str = ""


def content_type(request: Request) -> str:
    """The media type of a body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_images(request: Request, most: int) -> list[Upload]:
    """The images of a form, or the one that is the whole body.

    Raises:
        HTTPException: 400 or 422, there are too many, or a form contains anything else.
    """
    body = await request.body()
    if content_type(request) != FORM:
        return [Upload(body)]
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    # Starlette would leave out a last part that has no end.
    if not body.rstrip().endswith(b"--%b--" % boundary):
        raise HTTPException(422, "form: its end is missing")
    async with request.form(max_files=most, max_fields=most) as form:
        parts = form.multi_items()
        images = [Upload(await part.read(), part.filename or "") for _, part in parts if not isinstance(part, str)]
    if not images or len(images) < len(parts) or {name for name, _ in parts} != {"image"}:
        raise HTTPException(422, 'form: files named "image" expected, and nothing else: curl -F image=@FILE')
    return images


async def read_json(request: Request, model: type[Body]) -> Body:
    """A JSON body; raises a RequestValidationError if it is not what `model` says."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(errors) from None


def decode_images(images: Sequence[Upload], resize: Resize, max_pixels: int) -> list[np.ndarray]:
    """Images as the network takes them, (H, W, 3) uint8; raises an HTTPException, 422, if one cannot be read."""
    pixels = []
    for number, image in enumerate(images):
        try:
            pixels.append(decode_bytes(image.content, resize, max_pixels=max_pixels))
        except DataError as error:
            which = f"image {number}: " if len(images) > 1 else ""
            raise HTTPException(422, f"{which}{error}") from None
    return pixels
