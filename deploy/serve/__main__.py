"""Serve a model and a gallery: `python -m deploy.serve --model runs/NAME/model.onnx --gallery DIR`.

DIR is a folder of images, such as crops of persons, searched recursively. New and changed images are embedded when the
service starts. Their index is stored in DIR/.gallery, or in the folder or object store that --index names. A DIR that
does not exist is created: a gallery to be filled by POST /gallery.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.predictor import predictor_of, predictor_parser
from deploy.serve.limits import Limits
from utils.cli import exit_code_of, whole_number
from utils.errors import ParamsError, optional_imports
from utils.files import expand_user
from utils.logs import log_to_screen
from utils.process import num_own_cpus

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that only this machine can connect to."""
TOKEN = "REID_TOKEN"
"""Environment variable with the token."""
SHORTEST_TOKEN = 16

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Command line -> the service, until a signal stops it."""
    args = parse_arguments(argv)
    log_to_screen()
    with optional_imports("the service", "pip install -r requirements-deploy.txt"):
        from deploy.gallery.folder import synchronise
        from deploy.gallery.gallery import Gallery
        from deploy.serve.app import create_app, serve
    token = read_token(args)
    limits = Limits(**{name: getattr(args, name) for name in Limits.model_fields})
    if limits.max_images > limits.max_waiting:
        raise ParamsError(f"--max-images {limits.max_images}: more than --max-waiting {limits.max_waiting} allows")
    predictor = predictor_of(args, spin=False)
    folder = expand_user(args.gallery)
    folder.mkdir(parents=True, exist_ok=True)
    with Gallery(args.index or folder / ".gallery", predictor.embedding_dim, predictor.digest) as gallery:
        changes = synchronise(gallery, folder, predictor)
        counts = ", ".join(f"{number} {what}" for what, number in changes._asdict().items())
        logger.info("gallery of %d images: %s", len(gallery), counts)
        app = create_app(predictor, gallery, folder, limits, token=token, threads=num_own_cpus() + 1)
        serve(app, args.host, args.port, limits.connections)


def read_token(args: argparse.Namespace) -> str:
    """The token that clients must send; "" = none; raises a ParamsError if it is too short, or missing but needed."""
    token = os.environ.get(TOKEN, "")
    if args.token_file is not None:
        token = expand_user(args.token_file).read_text(encoding="utf-8", errors="replace").strip()
    if not token and args.token_file is None:
        if args.host not in LOOPBACK:
            raise ParamsError(f"--host {args.host}: others can reach it; set a token: --token-file FILE, or {TOKEN}")
    elif len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
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
        text = f"{(field.description or '').rstrip('.')}; default: {field.default}"
        option, number = f"--{name.replace('_', '-')}", whole_number(1, 10**9)
        parser.add_argument(option, type=number, default=field.default, metavar="N", help=text)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
