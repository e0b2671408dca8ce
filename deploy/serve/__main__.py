"""Serve a model and a gallery: `python -m deploy.serve --model runs/NAME/model.onnx --gallery DIR`.

DIR is a folder of images, such as crops of persons, searched recursively. New and changed images are embedded when the
service starts. Their index is stored in DIR/.gallery, or in the folder or object store that --index names. A DIR that
does not exist is created: a gallery to be filled by POST /gallery.
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
from deploy.predictor import predictor_of, predictor_parser
from deploy.serve.app import create_app
from deploy.serve.limits import Limits
from deploy.serve.middleware import is_loopback
from deploy.serve.protocol import BoundedProtocol
from utils.cli import exit_code_of, whole_number
from utils.errors import DataError, ParamsError
from utils.files import expand_user
from utils.logs import log_to_screen
from utils.process import num_own_cpus

TOKEN = "REID_TOKEN"
"""Environment variable with the token."""
SHORTEST_TOKEN = 16
IDLE = 4
"""Open connections for each request that may be in progress."""
SHUTDOWN_SECONDS = 5
KEEP_ALIVE_SECONDS = 30

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> the service, until a signal stops it."""
    args = parse_arguments(argv)
    log_to_screen()
    token = read_token(args)
    if not token and not is_loopback(args.host):
        raise ParamsError(
            f"--host {args.host}: other machines can reach the service; set a token: --token-file FILE, or {TOKEN}"
        )
    limits = read_limits(args)
    predictor = predictor_of(args)
    folder = expand_user(args.gallery)
    folder.mkdir(parents=True, exist_ok=True)
    with Gallery(args.index or folder / ".gallery", predictor.embedding_dim, predictor.digest) as gallery:
        changes = synchronise(gallery, folder, predictor)
        logger.info(
            "gallery of %d images: %s", len(gallery), ", ".join(f"{n} {what}" for what, n in changes._asdict().items())
        )
        hosts = () if args.host in ("0.0.0.0", "::") else {args.host, "localhost", "127.0.0.1", "::1"}
        app = create_app(predictor, gallery, folder, limits, hosts=hosts, token=token, threads=num_own_cpus() + 1)
        serve(app, args.host, args.port, IDLE * limits.connections)


def serve(app: ASGIApp, host: str, port: int, max_connections: int) -> None:
    """Answer requests until a signal stops it; requests in progress are answered first.

    Args:
        max_connections: open at once, idle ones included.

    Raises:
        DataError: the address is taken, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise DataError(f"--host {host} --port {port}: cannot bind: {error.strerror or error}") from error
    # Below "error", uvicorn logs a line for each mistake of a client.
    # The shutdown timeout is for clients that do not read their answers.
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=max_connections,
        ws="none",
        http=BoundedProtocol,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        logger.info("answering at http://%s:%d; Ctrl-C stops it", shown, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def read_token(args: argparse.Namespace) -> str:
    """The token that clients must send; "" = none; raises a ParamsError if it is too short to be a secret."""
    token = os.environ.get(TOKEN, "")
    if args.token_file is not None:
        token = expand_user(args.token_file).read_text(encoding="utf-8", errors="replace").strip()
    is_safe = len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable() and " " not in token
    if (token or args.token_file) and not is_safe:
        make = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        raise ParamsError(f"token: at least {SHORTEST_TOKEN} letters and digits without spaces expected; {make}")
    return token


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake in it exits with code 2 and the usage."""
    parser = predictor_parser("python -m deploy.serve", __doc__, batch_size=16)
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="the folder of images")
    parser.add_argument("--index", metavar="PLACE", help="of the index, a folder or s3://...; default: .gallery in DIR")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; default: 127.0.0.1")
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, help="default: 8000; 0 = any that is free")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"file of the clients' token; or {TOKEN}")
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
    """The limits of the command line; raises a ParamsError if one is out of range."""
    try:
        return Limits(**{name: getattr(args, name) for name in Limits.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ParamsError(f"--{option}: {first['msg']}, got {first['input']}") from error


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
