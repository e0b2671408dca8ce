"""Serve a model and a gallery: `python -m deploy.serve --model runs/NAME/model.onnx --gallery DIR`.

DIR is a folder of images, such as crops of persons; images in folders below it count, too. Those that are new or have
changed are embedded when the service starts. What it knows of them lies in DIR/.gallery, unless --index names another
folder. A DIR that does not exist is made: a gallery to be filled by POST /gallery.
"""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp

from deploy.gallery.folder import synchronise
from deploy.gallery.gallery import Gallery
from deploy.predictor import Predictor
from deploy.serve.app import create_app
from deploy.serve.guard import is_loopback
from deploy.serve.limits import Limits
from deploy.serve.protocol import BoundedProtocol
from utils.cli import exit_code_of, whole_number
from utils.errors import DataError, ParamsError
from utils.files import expand_user
from utils.logs import log_to_screen
from utils.process import num_own_cpus

TOKEN = "REID_TOKEN"
"""Variable of the environment with the token."""
SHORTEST_TOKEN = 16
IDLE = 4
"""Connections that may be open for each request that may be under way."""
SECONDS_TO_END = 5
KEPT_OPEN = 30
"""Seconds a connection stays open without a request."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> the service, until a signal ends it."""
    args = parse_arguments(argv)
    log_to_screen()
    token = read_token(args)
    if not token and not is_loopback(args.host):
        raise ParamsError(
            f"--host {args.host}: others could reach the service; give it a token: --token-file FILE, or {TOKEN}"
        )
    limits = read_limits(args)
    predictor = Predictor(args.model, batch_size=args.batch_size, threads=args.threads)
    folder = make_folder(args.gallery)
    with Gallery(args.index or folder / ".gallery", predictor.embedding_dim, predictor.digest) as gallery:
        changes = synchronise(gallery, folder, predictor)
        logger.info(
            "gallery of %d images: %s", len(gallery), ", ".join(f"{n} {what}" for what, n in changes._asdict().items())
        )
        hosts = () if args.host in ("0.0.0.0", "::") else {args.host, "localhost", "127.0.0.1", "::1"}
        app = create_app(predictor, gallery, folder, limits, hosts=hosts, token=token, threads=num_own_cpus() + 1)
        serve(app, args.host, args.port, IDLE * limits.connections)


def serve(app: ASGIApp, host: str, port: int, most: int) -> None:
    """Answer requests until a signal ends it; those under way are answered first.

    Args:
        most: connections that are open at once, also those that ask nothing.

    Raises:
        DataError: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise DataError(f"--host {host} --port {port}: cannot be listened at: {error.strerror or error}") from error
    # Uvicorn warns of what clients do wrong, a line each time, which is as often as they like.
    # What hangs is not waited for in the end: a client that does not read what it asked for.
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEPT_OPEN,
        limit_concurrency=most,
        ws="none",
        http=BoundedProtocol,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    with listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        logger.info("answering at http://%s:%d; Ctrl-C ends it", shown, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def make_folder(path: Path) -> Path:
    """The gallery's folder, made if it is missing.

    Raises:
        DataError: it cannot be.
    """
    path = expand_user(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--gallery {path}: cannot be made: {error.strerror}") from error
    return path


def read_token(args: argparse.Namespace) -> str:
    """The token that clients must show; "" if there is none.

    Raises:
        ParamsError: its file cannot be read, or it is too short to be a secret.
    """
    token = os.environ.get(TOKEN, "")
    if args.token_file is not None:
        try:
            token = expand_user(args.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"--token-file {args.token_file}: cannot be read: {error}") from error
        if not token:
            raise ParamsError(f"--token-file {args.token_file}: is empty")
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        make = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        raise ParamsError(f"token: at least {SHORTEST_TOKEN} letters and digits without spaces expected; {make}")
    return token


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    number = whole_number(1, 100_000)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="a model.onnx or model_best.pth")
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="the folder of images")
    parser.add_argument("--index", type=Path, metavar="DIR", help="what is known of them; default: .gallery in there")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default: 127.0.0.1")
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, help="default: 8000; 0 = any that is free")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"what clients must show; or {TOKEN}")
    parser.add_argument("--batch-size", type=number, default=16, metavar="N", help="images at once; default: 16")
    parser.add_argument(
        "--threads",
        type=number,
        default=0,
        metavar="N",
        help="processors of the network; default: all",
    )
    for name, field in Limits.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            metavar="N",
            help=f"{(field.description or '').rstrip('.')}; default: {field.default:g}",
        )
    return parser.parse_args(argv)


def read_limits(args: argparse.Namespace) -> Limits:
    """Those of the command line.

    Raises:
        ParamsError: one is out of its range.
    """
    try:
        return Limits(**{name: getattr(args, name) for name in Limits.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ParamsError(f"--{option}: {first['msg']}, got {first['input']}") from error


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
