"""A rendering process: `python -m data.synthetic OPTIONS_JSON FOLDER SHARE SHARES`; `dataset.py` starts these.

It writes every SHARES-th image, beginning with number SHARE, and one byte to stdout for each image written. It ends
when nobody reads these bytes any more because the process that started it was killed.
"""

import os
import sys
from pathlib import Path

from data.synthetic.options import SyntheticOptions
from data.synthetic.render import render_share


def main() -> None:
    parent = os.getppid()
    options_json, folder, share, shares = sys.argv[1:]
    options = SyntheticOptions.model_validate_json(options_json)
    try:
        for _ in render_share(options, Path(folder), int(share), int(shares)):
            os.write(sys.stdout.fileno(), b".")
    except BrokenPipeError:
        pass
    except FileNotFoundError:
        # The parent was killed, and the next process that makes this data set removed the folder.
        if os.getppid() == parent:
            raise


if __name__ == "__main__":
    main()
