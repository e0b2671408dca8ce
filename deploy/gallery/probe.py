"""Reads an LMDB file from end to end, in a process of its own: python probe.py FILE.

LMDB believes what the pages of its file say, and a damaged one can kill the process that reads it. So this one goes
first; who started it looks at how it ended.
"""

import os
import sys

import lmdb


def main(path: str) -> None:
    """Visit every record of every database in the file."""
    with lmdb.open(os.fsencode(path), subdir=False, readonly=True, lock=False, create=False, max_dbs=8) as environment:
        with environment.begin(buffers=True) as transaction:
            names = [bytes(key) for key, _ in transaction.cursor()]
        # The main database holds the descriptions of the others, and records of its own.
        databases = [environment.open_db(name, create=False) for name in names if not name.startswith(b"_")]
        with environment.begin(buffers=True) as transaction:
            for database in databases:
                for _, value in transaction.cursor(database):
                    # A record of several pages is not looked into by LMDB; its last byte shows that the file has them.
                    bytes(value[-1:])


if __name__ == "__main__":
    main(sys.argv[1])
