"""What the routes do, without HTTP: embed, search, and keep a gallery."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.images import read_bytes
from deploy.gallery.gallery import Gallery, Item, Match, NameTakenError
from deploy.predictor import Predictor
from deploy.serve.batching import Batcher
from deploy.serve.errors import RequestError
from deploy.serve.limits import Limits
from deploy.serve.request_parsing import decode_images
from utils.errors import DataError

T = TypeVar("T")


class SearchQuery(BaseModel):
    """How many matches of a search are wanted, and which."""

    model_config = ConfigDict(allow_inf_nan=False)
    k: int = Field(default=20, ge=1, description="Number of matches.")
    camid: list[Annotated[int, Field(ge=-(2**63), lt=2**63)]] = Field(
        default=[], description="Only images of these cameras; none = of all."
    )
    start: float | None = Field(default=None, description="Taken at or after this time, Unix seconds.")
    end: float | None = Field(default=None, description="Taken at or before this time, Unix seconds.")
    max_distance: float | None = Field(default=None, description="Largest cosine distance, 0 to 2.")


class Service:
    """A predictor and a gallery behind limits. Threads decode and search; one, the batcher's, embeds.

    Args:
        predictor, gallery: used by this service only; the caller closes the gallery.
        folder: where images lie that the gallery does not store itself.
        limits: of what clients may ask.
        threads: that decode and search.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        gallery: Gallery,
        folder: Path,
        limits: Limits,
        threads: int,
        observe: Callable[[int], None],
    ) -> None:
        self.predictor, self.gallery, self.limits = predictor, gallery, limits
        self.folder = folder.resolve()
        self.batcher = Batcher(predictor, limits.max_waiting, observe)
        self._threads = ThreadPoolExecutor(threads, "decoding")

    def close(self) -> None:
        """Finish the requests in progress."""
        self.batcher.close()
        self._threads.shutdown()

    async def embed(self, images: Sequence[bytes]) -> np.ndarray:
        """Encoded images -> embeddings (N, D) float32; raises a RequestError if one cannot be read."""
        pixels = await self._in_thread(decode_images, images, self.predictor.resize, self.limits)
        futures = self.batcher.submit(pixels)
        return np.stack(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def search(self, query: SearchQuery, vector: np.ndarray) -> list[Match]:
        """The images nearest to an embedding (D,), nearest first."""
        return await self._in_thread(self._search, query, vector, query.k)

    async def search_from(self, query: SearchQuery, id_: int) -> list[Match]:
        """The images nearest to a gallery image, without itself; raises an UnknownIdError if there is no such id."""
        vector = await self._in_thread(self.gallery.vector, id_)
        matches = await self._in_thread(self._search, query, vector, query.k + 1)
        return [match for match in matches if match.id != id_][: query.k]

    def _search(self, query: SearchQuery, vector: np.ndarray, k: int) -> list[Match]:
        start = -inf if query.start is None else query.start
        end, farthest = (inf if value is None else value for value in (query.end, query.max_distance))
        (matches,) = self.gallery.search(vector[None], k, camids=query.camid, start=start, end=end)
        return [match for match in matches if match.distance <= farthest]

    async def add(self, image: bytes, item: Item) -> int:
        """Embed an image and store it; its id.

        Raises:
            RequestError: 422, it cannot be read; 409, the name is taken; 507, the disk is full.
        """
        vectors = await self.embed([image])
        try:
            return (await self._in_thread(self.gallery.add, vectors, [item], [image]))[0]
        except NameTakenError as error:
            raise RequestError(409, str(error)) from None
        except ValueError as error:
            raise RequestError(422, str(error)) from None
        except DataError as error:
            raise RequestError(507, str(error)) from None

    def image(self, id_: int) -> bytes:
        """The image file of a gallery image; raises a RequestError, 404, if it no longer exists."""
        if (content := self.gallery.image(id_)) is not None:
            return content
        path = (self.folder / self.gallery.item(id_).name).resolve()
        # The file may have been replaced by a link to anywhere.
        if not path.is_relative_to(self.folder):
            raise RequestError(404, "its file is not in the gallery's folder")
        try:
            return read_bytes(path)
        except DataError:
            raise RequestError(404, "its file no longer exists") from None

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
