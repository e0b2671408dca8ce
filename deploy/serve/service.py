"""What the routes do, without HTTP: embed, search, and keep a gallery."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data.images import read_bytes
from deploy.gallery.gallery import Gallery, Item, Match, NameTakenError
from deploy.predictor import Predictor
from deploy.serve.batching import Batcher
from deploy.serve.bodies import decoded
from deploy.serve.limits import Limits
from deploy.serve.problems import ProblemError
from utils.errors import DataError

T = TypeVar("T")


class Wanted(NamedTuple):
    """What of the gallery is searched; as `Gallery.search` has it."""

    k: int
    camids: Collection[int] = ()
    start: float = -inf
    end: float = inf
    max_distance: float = inf


class Service:
    """A predictor and a gallery behind limits. Threads decode and search; one, the batcher's, embeds.

    Args:
        predictor, gallery: used by nobody else meanwhile; the caller closes the gallery.
        folder: where images lie that the gallery does not keep itself.
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
        """Finish what is under way."""
        self.batcher.close()
        self._threads.shutdown()

    async def embed(self, images: Sequence[bytes]) -> np.ndarray:
        """Encoded images -> embeddings (N, D) float32; raises a ProblemError where one cannot be read."""
        size = self.predictor.img_h, self.predictor.img_w
        pixels = await self._in_thread(decoded, images, *size, self.limits)
        futures = self.batcher.submit(pixels)
        return np.stack(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def search(self, vector: np.ndarray, wanted: Wanted, without: int | None = None) -> list[Match]:
        """The nearest images to an embedding (D,), nearest first; an image that is searched for itself left out."""
        k = wanted.k + (without is not None)
        span = {"camids": wanted.camids, "start": wanted.start, "end": wanted.end}
        found = await self._in_thread(lambda: self.gallery.search(vector[None], k, **span)[0])
        others = [match for match in found if match.id != without]
        return [match for match in others if match.distance <= wanted.max_distance][: wanted.k]

    async def vector(self, id_: int) -> np.ndarray:
        """The embedding of a gallery image, (D,)."""
        return await self._in_thread(self._known, self.gallery.vector, id_)

    async def item(self, id_: int) -> Item:
        """What is known of a gallery image."""
        return await self._in_thread(self._known, self.gallery.item, id_)

    async def cameras(self) -> list[int]:
        """Of the gallery's images, sorted."""
        return await self._in_thread(self.gallery.cameras)

    async def add(self, image: bytes, item: Item) -> int:
        """Embed an image and keep it; its id.

        Raises:
            ProblemError: it cannot be read; 409, there is one of that name.
        """
        vectors = await self.embed([image])
        try:
            return (await self._in_thread(self.gallery.add, vectors, [item], [image]))[0]
        except NameTakenError as error:
            raise ProblemError(409, str(error)) from None
        except ValueError as error:
            raise ProblemError(422, str(error)) from None
        except DataError as error:
            raise ProblemError(507, str(error)) from None

    async def remove(self, id_: int) -> None:
        """Forget a gallery image; a file in the folder stays, and is found again when the service starts anew."""
        await self._in_thread(self._known, lambda known: self.gallery.remove([known]), id_)

    async def image(self, id_: int) -> bytes:
        """A gallery image's file."""
        kept = await self._in_thread(self._known, self.gallery.image, id_)
        if kept is not None:
            return kept
        item = await self.item(id_)
        path = (self.folder / item.name).resolve()
        # A link in the folder may have been changed since, to lead anywhere.
        if not path.is_relative_to(self.folder):
            raise ProblemError(404, "its file does not lie in the gallery's folder")
        try:
            return await self._in_thread(read_bytes, path)
        except DataError:
            raise ProblemError(404, "its file is no longer there") from None

    def _known(self, ask: Callable[[int], T], id_: int) -> T:
        try:
            return ask(id_)
        except KeyError:
            raise ProblemError(404, f"there is no image {id_} in the gallery") from None

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
