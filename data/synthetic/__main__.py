"""One rendering process: `python -m data.synthetic OPTIONS_JSON FOLDER SHARE SHARES`; `dataset.py` starts these.

It writes every SHARES-th image, beginning with number SHARE, and one byte to stdout for each image written.
"""

import sys
from pathlib import Path

from data.synthetic.options import SyntheticOptions
from data.synthetic.worker import render_share


def main() -> None:
    options_json, folder, share, shares = sys.argv[1:]
    options = SyntheticOptions.model_validate_json(options_json)
    for _ in render_share(options, Path(folder), int(share), int(shares)):
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
