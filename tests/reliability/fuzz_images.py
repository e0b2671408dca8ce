"""Feeds the decoder with bytes that a fuzzer makes up: pixels or DataError must come out, and no warning.

    pip install atheris
    python tests/reliability/fuzz_images.py -runs=100000 [further options of libFuzzer] [--corpus FOLDER]

It begins with one small image of every kind, and keeps in the folder what led it further, also for the next time, and
what it found wrong. Only Python code tells it where it has been; the libraries beneath are compiled without that.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the decoding of images; other options are those of libFuzzer.")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "person_reid_fuzzed_images")
    arguments, others = parser.parse_known_args()
    try:
        atheris = importlib.import_module("atheris")  # optional, so no type checker has to know it
    except ImportError:
        sys.exit("fuzz_images.py: atheris is not installed; pip install atheris")
    sys.path.insert(0, str(ROOT))  # a script's own folder is there, and not what it tests
    with atheris.instrument_imports(include=["PIL", "data.decoding"]):
        from tests.reliability.image_bytes import decode_or_refuse, small_images

    arguments.corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(small_images().values()):
        (arguments.corpus / f"seed_{number:02}").write_bytes(content)
    options = [f"-artifact_prefix={arguments.corpus.parent / arguments.corpus.name}_", "-max_len=4096", *others]
    atheris.Setup([sys.argv[0], *options, str(arguments.corpus)], decode_or_refuse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
