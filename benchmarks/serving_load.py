"""A load of valid, malformed, oversized, slow and aborted requests on a service, with a check of every answer."""

import io
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.report import Row
from deploy.predictor import Predictor

FLOATS = {"Accept": "application/octet-stream"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
PART = b'--B\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n%b\r\n'
TOLERANCE = 1e-5
"""By which a number of an embedding may differ when other images are in the same batch."""


class Service(NamedTuple):
    """A running service."""

    port: int
    pid: int

    def connection(self) -> HTTPConnection:
        """A new connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=120)

    def memory(self) -> float:
        """Resident MiB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096 / 2**20

    def ask(
        self, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 if the connection ended without one."""
        with closing(self.connection()) as connection, suppress(ConnectionError, HTTPException):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        return 0, b""


class Load:
    """Clients that each send one kind of request until time is up, and check every answer."""

    def __init__(self, service: Service, predictor: Predictor, images: list[bytes], seconds: float) -> None:
        self.service, self.images, self.seconds = service, images, seconds
        self.expected = predictor(images)
        self.deadline = 0.0
        self.answers: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self) -> tuple[list[Row], str]:
        """A row for each kind of request, and what became of the service."""
        kinds = [*[self.embed] * 3, self.embed_form, self.search, self.keep, self.malformed, self.oversized, self.slow]
        self.deadline = time.monotonic() + self.seconds
        memory = []
        with ThreadPoolExecutor(len(kinds)) as pool:
            workers = [pool.submit(kind, number) for number, kind in enumerate(kinds)]
            while not all(worker.done() for worker in workers):
                time.sleep(min(2.0, self.seconds / 20))
                memory.append(self.service.memory())
            for worker in workers:
                worker.result()
        status, _ = self.service.ask("/health", b"", method="GET")
        settled = memory[len(memory) // 5 :]
        third = max(1, len(settled) // 3)
        first, last = (statistics.median(part) for part in (settled[:third], settled[-third:]))
        rows: list[Row] = [
            {"request": kind, "answers": str(number), "wrong": str(self.wrong[kind])}
            for kind, number in sorted(self.answers.items())
        ]
        end = "The service runs on" if status == 200 else "THE SERVICE NO LONGER ANSWERS"
        memories = f"its memory: {first:.0f} MiB in the first third after a fifth of the time, {last:.0f} in the last"
        return rows, f"{self.seconds / 60:g} minutes, {self.wrong.total()} wrong answers. {end}; {memories}."

    def embed(self, number: int) -> None:
        """Single images, whose embeddings are compared."""
        for place in self._places(number):
            status, body = self.service.ask("/embed", self.images[place], FLOATS)
            self._note("embed", status == 200 and self._is_right(body, [place]))

    def embed_form(self, number: int) -> None:
        """Several images in a form."""
        for place in self._places(number):
            places = [(place + offset) % len(self.images) for offset in range(5)]
            parts = [PART % (b"%d" % one, self.images[one]) for one in places]
            status, body = self.service.ask("/embed", b"".join(parts) + b"--B--\r\n", {**FLOATS, **FORM})
            self._note("embed a form", status == 200 and self._is_right(body, places))

    def search(self, number: int) -> None:
        """An image that is in the gallery, which is the nearest, at no distance."""
        own, query = self.images[number], f"name=searched-{number}"
        status, _ = self.service.ask(f"/gallery?{query}", own)
        self._note("add", status == 201)
        for _ in self._places(number):
            status, body = self.service.ask("/search?k=3", own)
            matches = json.loads(body)["matches"] if status == 200 else []
            near = [match["name"] for match in matches if match["distance"] < TOLERANCE]
            self._note("search", f"searched-{number}" in near)

    def keep(self, number: int) -> None:
        """Adds images, reads them, and removes them again."""
        for place in self._places(number):
            status, body = self.service.ask(f"/gallery?name=kept-{number}", self.images[place])
            self._note("add", status == 201)
            path = f"/gallery/{json.loads(body)['id'] if status == 201 else 0}"
            status, body = self.service.ask(f"{path}/image", b"", method="GET")
            self._note("read", status == 200 and body == self.images[place])
            status, _ = self.service.ask(path, b"", method="DELETE")
            self._note("remove", status == 204)

    def malformed(self, number: int) -> None:
        """No image, half an image, no JSON, and broken forms."""
        rng = np.random.default_rng(number)
        for place in self._places(number):
            half = self.images[place][: len(self.images[place]) // 2]
            part = PART % (b"x", self.images[place])
            for body, headers in (
                (b"", {}),
                (rng.bytes(200), {}),
                (half, {}),
                (b"[" * 1000, {"Content-Type": "application/json"}),
                (part, FORM),
                (part + PART % (b"y", half) + b"--B--", FORM),
                (rng.bytes(200) + b"--B--", FORM),
            ):
                status, _ = self.service.ask("/embed", body, headers)
                self._note("malformed", status in (400, 422))
            time.sleep(0.05)

    def oversized(self, number: int) -> None:
        """Bodies that are too long, an image of very many pixels, and a form of too many images."""
        bomb = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
        many = b"".join([PART % (b"x", b"x")] * 1000) + b"--B--"
        for _ in self._places(number):
            status, _ = self.service.ask("/embed", bytes(2**20 + 1))
            # The service may answer and close the connection before it has been sent.
            self._note("too long", status in (0, 413))
            status, _ = self.service.ask("/embed", bomb.getvalue())
            self._note("too many pixels", status == 422)
            status, _ = self.service.ask("/embed", many, FORM)
            self._note("too many images", status == 400)
            time.sleep(0.1)

    def slow(self, number: int) -> None:
        """Bodies of which half arrives, and a second later the rest; or nothing more, as the client disconnects."""
        for place in self._places(number):
            image = self.images[place]
            with closing(self.service.connection()) as connection:
                connection.putrequest("POST", "/embed")
                connection.putheader("Accept", FLOATS["Accept"])
                connection.putheader("Content-Length", str(len(image)))
                connection.endheaders(image[:100])
                time.sleep(0.5)
                if place % 2:
                    continue
                connection.send(image[100:])
                answer = connection.getresponse()
                self._note("slow", answer.status == 200 and self._is_right(answer.read(), [place]))
            with closing(self.service.connection()) as connection:
                connection.request("POST", "/embed", image)  # and disconnects before the answer

    def _is_right(self, body: bytes, places: list[int]) -> bool:
        rows, expected = np.frombuffer(body, "<f4"), self.expected[places].ravel()
        return rows.shape == expected.shape and bool(np.abs(rows - expected).max() < TOLERANCE)

    def _places(self, number: int) -> Iterator[int]:
        """Images in turn until time is up; at least one."""
        for place in count(number):
            yield place % len(self.images)
            if time.monotonic() > self.deadline:
                return

    def _note(self, kind: str, is_right: bool) -> None:
        with self._lock:
            self.answers[kind] += 1
            self.wrong[kind] += not is_right
