"""TensorBoard's files of curves and images."""

import logging
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] made at import
from tensorboardX.record_writer import masked_crc32c

from utils.errors import with_advice

logger = logging.getLogger(__name__)


class TensorBoard:
    """Writes a folder's events.out.tfevents.* files.

    tensorboardX's SummaryWriter writes in a thread, which dies on a full disk and then blocks the training. So its
    events are written here by the caller, at once: a kill of the process loses none of them.

    Args:
        folder: of the run.
        purge_step: TensorBoard hides what earlier files of the folder hold of this step and later; 0 for a new run.
    """

    takes_files = False

    def __init__(self, folder: Path, purge_step: int = 0) -> None:
        # The step keeps a run that is resumed within a second from overwriting its own file.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.step{purge_step}"
        self.path = folder / name
        self._file: BinaryIO | None = None
        with self._guarded():
            self._file = self.path.open("wb")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for tag, value in values.items():
            self._write(Event(wall_time=time.time(), step=step, summary=summary.scalar(tag, value)))

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """One image (H, W, 3) uint8."""
        content = summary.image(tag, pixels, dataformats="HWC")
        self._write(Event(wall_time=time.time(), step=step, summary=content))

    def file(self, path: Path) -> None:
        """Nothing: the file lies in the same folder."""

    def flush(self) -> None:
        """Return when every event before is on the disk."""
        if (file := self._file) is not None:
            with self._guarded():
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flush, and end."""
        self.flush()
        if (file := self._file) is not None:
            with self._guarded():
                file.close()
            self._file = None

    def _write(self, event: Event) -> None:
        """Append a TFRecord: length, content, and the checksums of both."""
        if (file := self._file) is not None:
            content = event.SerializeToString()
            length = struct.pack("<Q", len(content))
            checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
            with self._guarded():
                file.write(length + checksums[0] + content + checksums[1])
                file.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A disk that is full or read-only ends the curves, with one warning."""
        try:
            yield
        except OSError as error:
            file, self._file = self._file, None
            if file is not None:
                with suppress(OSError):
                    file.close()
            logger.warning("curves are not written any more: %s; training continues", with_advice(error))
        except ValueError:
            # Another thread has closed the file meanwhile, and said why.
            pass
