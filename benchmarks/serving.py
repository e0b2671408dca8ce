"""What the service adds to a predictor, and whether it answers rightly under a malformed load.

    python -m benchmarks.serving --model runs/first/model.onnx [--clients 16 --rounds 8 --minutes 10 --out FILE]

First the predictor, which is given encoded images, and the service, to which clients on the same processors send them,
take turns. Then, for so many minutes, clients send valid, malformed, oversized, slow and aborted requests at once; each
answer is checked, and the memory of the service is watched.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from benchmarks.measure import take_turns
from benchmarks.report import Report, Row
from benchmarks.serving_load import Load, Service
from deploy.predictor import Predictor
from utils.cli import exit_code_of
from utils.errors import DataError
from utils.logs import log_to_screen

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16
HEAD = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
LENGTH = b"content-length:"


def main(argv: Sequence[str]) -> None:
    """Measure and write the report."""
    args = parse_arguments(argv)
    log_to_screen()
    predictor = Predictor(args.model, batch_size=BATCH)
    size = f"{predictor.img_h} x {predictor.img_w}"
    report = Report(f"Service of {args.model.name}, {predictor.embedding_dim} dimensions, images of {size}")
    images = make_images(64, predictor.img_h, predictor.img_w)
    with tempfile.TemporaryDirectory(prefix="serving-") as folder, serving(args.model, folder) as service:
        if args.rounds:
            report.tables["Overhead"] = compare(service, predictor, images, args)
        if args.minutes:
            report.tables["Load"], note = Load(service, predictor, images, 60 * args.minutes).run()
            report.notes.append(note)
    report.save(args.out)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a model.onnx or model_best.pth")
    parser.add_argument("--clients", type=int, default=16, help="that send images at once; default: 16")
    parser.add_argument("--rounds", type=int, default=8, help="of the comparison; 0 = none; default: 8")
    parser.add_argument("--images", type=int, default=320, help="of a round; default: 320")
    parser.add_argument("--minutes", type=float, default=0.0, help="of malformed load; default: 0")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args(argv)
    if min(args.clients, args.images) < 1 or min(args.rounds, args.minutes) < 0:
        parser.error("clients and images must be at least 1, rounds and minutes at least 0")
    return args


def make_images(number: int, height: int, width: int) -> list[bytes]:
    """Different encoded images of the network's size."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(number):
        small = Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8))
        content = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        encoded.append(content.getvalue())
    return encoded


@contextmanager
def serving(model: Path, folder: str) -> Iterator[Service]:
    """A service with an empty gallery, until the block ends."""
    command = [sys.executable, "-m", "deploy.serve", "--model", str(model.resolve()), "--gallery", folder]
    command += ["--port", "0", "--batch-size", str(BATCH), "--max-body-mb", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"answering at http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise DataError(f"{model}: the service does not start")
        # Nothing that it reports from here on may fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield Service(int(found[1]), process.pid)
        finally:
            process.terminate()


def read_answer(answers: BinaryIO) -> bytes:
    """The body of the next answer on a connection.

    Raises:
        DataError: the connection ended before it, or the service refused the request.
    """
    head = []
    for line in answers:
        if line == b"\r\n":
            break
        head.append(line)
    else:
        raise DataError("the service ended a connection without an answer")
    body = answers.read(next(int(line[len(LENGTH) :]) for line in head if line.lower().startswith(LENGTH)))
    if not head[0].startswith(b"HTTP/1.1 200"):
        raise DataError(f"the service answered {head[0]!r}: {body[:200]!r}")
    return body


def compare(service: Service, predictor: Predictor, images: list[bytes], args: argparse.Namespace) -> list[Row]:
    """Images per second of the predictor and the service, by turns."""
    work = [images[number % len(images)] for number in range(args.images)]
    # Clients share the processors with the service, so they do as little as possible.
    requests = [HEAD % len(image) + image for image in work]

    def client(number: int) -> None:
        address = "127.0.0.1", service.port
        with socket.create_connection(address, timeout=120) as connection, connection.makefile("rb") as answers:
            for request in requests[number :: args.clients]:
                connection.sendall(request)
                read_answer(answers)

    def ask_all() -> None:
        with ThreadPoolExecutor(args.clients) as pool:
            list(pool.map(client, range(args.clients)))

    def rate(embed_all: Callable[[], object]) -> float:
        start = time.perf_counter()
        embed_all()
        return len(work) / (time.perf_counter() - start)

    asked = {"predictor": lambda: rate(lambda: predictor(work)), "service": lambda: rate(ask_all)}
    rates = {name: values[1:] for name, values in take_turns(asked, args.rounds + 1).items()}
    added = statistics.median(1 - served / bare for bare, served in zip(*rates.values(), strict=True))
    rows: list[Row] = [{"": "predictor alone", "images/s": rates["predictor"], "overhead, median": ""}]
    return [*rows, {"": f"{args.clients} clients", "images/s": rates["service"], "overhead, median": f"{added:.1%}"}]


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
