"""What the service adds to a predictor, and whether it holds out.

    python -m benchmarks.serving --model runs/first/model.onnx [--rounds 6 --clients 16 --out FILE]
    python -m benchmarks.serving --model runs/first/model.onnx --load 10 [--out FILE]

The first compares, by turns, images per second of a predictor that is given encoded images, with those of the service
that is given the same images by 16 clients at once, each on a connection of its own. The clients run on the same
processors; what they take of them is told. The second sends good, malformed, oversized, truncated and slow requests for
so many minutes, compares every embedding and every search with the right one, and watches the service's memory. Both
start the service themselves and reach it at 127.0.0.1 only. Prints Markdown; with --out also appends it.
"""

import argparse
import io
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import date
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.evaluation import hardware
from benchmarks.reports import append
from deploy.predictor import Predictor
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.logs import log_to_screen

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16
FLOATS = {"Accept": "application/octet-stream"}
TOLERANCE = 1e-5
"""By which a number of an embedding may differ when other images stand beside it in a batch."""
WARM_UP = 0.2
"""Share of the load test after which memory counts."""


class Service(NamedTuple):
    """A running service."""

    host: str
    port: int
    pid: int

    def connection(self) -> HTTPConnection:
        """A new connection."""
        return HTTPConnection(self.host, self.port, timeout=60)

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write what was asked for."""
    args = parse_arguments(argv)
    log_to_screen()
    predictor = Predictor(args.model, batch_size=BATCH)
    images = pictures(64, predictor.img_h, predictor.img_w)
    with tempfile.TemporaryDirectory(prefix="serving") as folder, serving(args.model, Path(folder)) as service:
        if args.load:
            report = hold_out(service, predictor, images, 60 * args.load)
        else:
            report = compare(service, predictor, images, args)
    report = f"{date.today().isoformat()}; {hardware('cpu')}; {described(predictor)}\n\n{report}"
    print(report)
    if args.out is not None:
        append(args.out, report)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=16, help="default: 16")
    parser.add_argument("--rounds", type=int, default=6, help="default: 6")
    parser.add_argument("--images", type=int, default=640, help="in a round; default: 640")
    parser.add_argument("--load", type=float, default=0.0, metavar="MINUTES", help="test whether the service holds out")
    parser.add_argument("--out", type=Path, help="append the report to this file")
    args = parser.parse_args(argv)
    if min(args.clients, args.rounds, args.images) < 1 or not 0 <= args.load <= 60:
        parser.error("numbers must be at least 1, minutes at most 60")
    return args


def described(predictor: Predictor) -> str:
    """What computes."""
    card = predictor.card
    name = "a checkpoint" if card is None else f"{card.backbone}, {card.precision}"
    return f"{name}, images of {predictor.img_h} x {predictor.img_w}"


def pictures(number: int, height: int, width: int) -> list[bytes]:
    """Encoded images of the network's size, each another."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        small = Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8))
        content = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        found.append(content.getvalue())
    return found


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[Service]:
    """A service over an empty gallery, until the block ends."""
    unlimited = ["--rate", "1000000", "--burst", "1000000", "--body-seconds", "3", "--max-body-mb", "1"]
    command = [sys.executable, "-m", "deploy.serve", "--model", str(model.resolve()), "--gallery", str(folder)]
    command += ["--port", "0", "--batch-size", str(BATCH), *unlimited]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"answering at http://([\d.]+):(\d+)", line):
                break
        else:
            raise DataError(f"{model}: the service does not start")
        # What it says from here on must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield Service(found[1], int(found[2]), process.pid)
        finally:
            process.terminate()


def compare(service: Service, predictor: Predictor, images: list[bytes], args: argparse.Namespace) -> str:
    """Rounds of the predictor and of the service by turns, as Markdown."""
    work = [images[place % len(images)] for place in range(args.images)]
    bare: list[float] = []
    served: list[float] = []
    client_share: list[float] = []
    for number in range(-1, args.rounds):
        start = time.perf_counter()
        predictor(work)
        bare_rate = len(work) / (time.perf_counter() - start)
        start, cpu = time.perf_counter(), time.process_time()
        ask_all(service, work, args.clients)
        seconds = time.perf_counter() - start
        if number >= 0:  # the first round does not count
            bare.append(bare_rate)
            served.append(len(work) / seconds)
            client_share.append((time.process_time() - cpu) / seconds)
    added = [1 - b / a for a, b in zip(bare, served, strict=True)]
    rows = [("predictor alone", bare), (f"service, {args.clients} clients", served)]
    return "\n".join(
        [
            "| | images/s | least to most |",
            "|---|---:|---:|",
            *(f"| {name} | {statistics.median(r):.1f} | {min(r):.1f} to {max(r):.1f} |" for name, r in rows),
            "",
            f"The service is {statistics.median(added):.1%} slower ({min(added):.1%} to {max(added):.1%} in "
            f"{args.rounds} rounds of {args.images} images), the clients' part included, which is "
            f"{statistics.median(client_share):.0%} of a processor.",
            "",
        ]
    )


def ask_all(service: Service, work: Sequence[bytes], num_clients: int) -> None:
    """Let clients send all images, each client its share, one after the other on one connection."""

    def client(number: int) -> None:
        connection = service.connection()
        for image in work[number::num_clients]:
            connection.request("POST", "/embed", image, FLOATS)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise DataError(f"the service answered {answer.status}: {body[:200]!r}")
        connection.close()

    with ThreadPoolExecutor(num_clients) as pool:
        list(pool.map(client, range(num_clients)))


def hold_out(service: Service, predictor: Predictor, images: list[bytes], seconds: float) -> str:
    """Every kind of request at once for some time, as Markdown."""
    load = Load(service, predictor, images, time.monotonic() + seconds)
    kinds = [load.embed] * 4 + [load.search, load.search, load.keep, load.malformed, load.oversized, load.slow]
    with ThreadPoolExecutor(len(kinds)) as pool:
        workers = [pool.submit(kind, number) for number, kind in enumerate(kinds)]
        memory = []
        while time.monotonic() < load.deadline:
            time.sleep(min(2.0, seconds / 20))
            memory.append(service.memory())
        for worker in workers:
            worker.result()
    settled = memory[int(WARM_UP * len(memory)) :]
    third = max(1, len(settled) // 3)
    first, last = (statistics.median(part) / 2**20 for part in (settled[:third], settled[-third:]))
    with closing(service.connection()) as connection:
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}', "the service no longer answers"
    counts = ", ".join(f"{number:,} {what}" for what, number in sorted(load.counts.items()))
    wrong = {what: number for what, number in load.wrong.items() if number}
    which = f" ({wrong})" if wrong else ""
    return (
        f"{seconds / 60:g} minutes of load: {counts}. {sum(wrong.values())} wrong answers{which}. The service runs on. "
        f"Its memory: {first:.0f} MiB in the first third after a fifth of the time, {last:.0f} MiB in the last "
        f"({last / first - 1:+.1%}).\n"
    )


class Load:
    """Clients that each do one kind of thing until the deadline, and count what comes of it."""

    def __init__(self, service: Service, predictor: Predictor, images: list[bytes], deadline: float) -> None:
        self.service, self.images, self.deadline = service, images, deadline
        self.expected = predictor(images)
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._lock = threading.Lock()

    def embed(self, number: int) -> None:
        """One image after another, its embedding compared."""
        for place in self._places(number):
            status, body = self._ask("POST", "/embed", self.images[place], FLOATS)
            row = np.frombuffer(body, "<f4") if status == 200 else np.zeros(0)
            right = row.shape == self.expected[place].shape and np.abs(row - self.expected[place]).max() < TOLERANCE
            self._note("embedded", right, status)

    def search(self, number: int) -> None:
        """Searches; a picture that is in the gallery is found, first and at no distance."""
        name = f"searched-{number}"
        own = self.images[number]
        status, _ = self._ask("POST", f"/gallery?name={name}", own)
        self._note("added", status == 201)
        for _ in self._places(number):
            status, body = self._ask("POST", "/search?k=5", own)
            self._note("searched", status == 200 and name.encode() in body, status)

    def keep(self, number: int) -> None:
        """Adds images and removes them again."""
        for place in self._places(number):
            status, body = self._ask("POST", f"/gallery?name=kept-{place}", self.images[place])
            self._note("added", status == 201)
            found = re.search(rb'"id":\s*(\d+)', body)
            status, _ = self._ask("DELETE", f"/gallery/{found[1].decode() if found else 0}", b"")
            self._note("removed", status == 204)

    def malformed(self, number: int) -> None:
        """What is no image, half an image, or no JSON."""
        rng = np.random.default_rng(number)
        for place in self._places(number):
            image = bytearray(self.images[place])
            bodies = [b"", rng.bytes(200), bytes(image[: len(image) // 2]), b"[" * 1000]
            for body in bodies:
                kind = {"Content-Type": "application/json"} if body.startswith(b"[") else {}
                status, _ = self._ask("POST", "/embed", body, kind)
                self._note("malformed refused", status == 422, status)
            time.sleep(0.05)

    def oversized(self, number: int) -> None:
        """Bodies that are too long, and an image of very many pixels."""
        bomb = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
        for _ in self._places(number):
            status, _ = self._ask("POST", "/embed", bytes(2**20 + 1))
            # The service may answer and close before all of it is sent.
            self._note("oversized refused", status in (0, 413), status)
            status, _ = self._ask("POST", "/embed", bomb.getvalue())
            self._note("bombs refused", status == 422, status)
            time.sleep(0.1)

    def slow(self, number: int) -> None:
        """Requests whose body never comes to its end; some clients go away before they are told."""
        for place in self._places(number):
            with socket.create_connection((self.service.host, self.service.port), timeout=30) as connection:
                connection.sendall(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
                if place % 3:
                    continue
                answer = connection.recv(100)
                self._note("slow refused", b" 408 " in answer, answer[:20])

    def _places(self, number: int) -> Iterator[int]:
        """Images in turn until time is up."""
        place = number
        while time.monotonic() < self.deadline:
            yield place % len(self.images)
            place += 1

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 where the connection ended without one."""
        connection = self.service.connection()
        try:
            with suppress(BrokenPipeError, ConnectionResetError, HTTPException):
                connection.request(method, path, body, headers or {})
                answer = connection.getresponse()
                return answer.status, answer.read()
            return 0, b""
        finally:
            connection.close()

    def _note(self, what: str, is_right: bool, told: object = "") -> None:
        with self._lock:
            self.counts[what] += 1
            self.wrong[f"{what}: {told}"] += not is_right


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
