"""Writes events for TensorBoard, whatever the disk does.

The SummaryWriters of tensorboardX and torch leave the writing to a thread. When the disk is full that thread dies, and
what comes next waits for it for ever (tensorboardX) or raises (torch); and what was added just before flush() need not
be on the disk after it. So only the content of events is tensorboardX's here. A record is one write of the thread that
adds it, a few microseconds: from then on a kill of the process cannot lose it, and after flush() a power cut cannot.
"""

import logging
import os
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] made at import
from tensorboardX.record_writer import masked_crc32c

from utils.logs import Outage, write_all

logger = logging.getLogger(__name__)

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


class EventWriter:
    """Scalars and images in a folder's events.out.tfevents.* files; any thread may call any method.

    A disk that is full or may not be written is told once; events are then left out until it works again, which is
    tried now and then. It goes on in a new file, as TensorBoard reads a file up to the first record that is cut.

    Args:
        folder: where the files are; it must be there.
        purge_step: TensorBoard hides what earlier files of the folder hold of this step and later; None: nothing.
        filename_suffix: ends the names of the files.
        enabled: False: write nothing at all.
    """

    def __init__(
        self, folder: Path, purge_step: int | None = None, filename_suffix: str = "", enabled: bool = True
    ) -> None:
        self.folder = folder
        self.filename_suffix = filename_suffix
        self.enabled = enabled
        self._purge_step = purge_step
        self._file: FileIO | None = None
        self._is_closed = False
        self._lock = threading.RLock()
        self._outage = Outage("curves", lambda text: logger.warning("%s", text))
        # There is a file from the start, for TensorBoard to find the run.
        self._write(b"")

    def scalar(self, name: str, value: float, step: int) -> None:
        """One point of the curve `name`."""
        self._add(summary.scalar(name, value), step)

    def image(self, name: str, pixels: np.ndarray, step: int, dataformats: str = "CHW") -> None:
        """A picture; pixels uint8, its dimensions in the order that `dataformats` tells."""
        self._add(summary.image(name, pixels, dataformats=dataformats), step)

    def flush(self) -> None:
        """Return when every event added before is on the disk, or could not be written.

        Other threads may add events meanwhile without waiting for the disk.
        """
        with self._lock:
            file = self._file
            if file is None:
                return
            try:
                # A number of its own, which nobody closes while the disk is at work.
                descriptor = os.dup(file.fileno())
            except OSError as error:
                self._give_up(file, error)
                return
        try:
            _to_disk(descriptor)
            # The file of a folder that was removed takes events, and nobody will read them.
            Path(file.name).stat()
        except OSError as error:
            self._give_up(file, error)

    def close(self) -> None:
        """Flush, and end."""
        self.flush()
        with self._lock:
            self._is_closed = True
            self._close_file()

    def _add(self, content: Any, step: int) -> None:
        self._write(_record(Event(wall_time=time.time(), step=int(step), summary=content)))

    def _write(self, record: bytes) -> None:
        if not self.enabled:
            return
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.folder}: an event for a writer that is closed")
            if not self._outage.lets_try():
                self._outage.missing += 1
                return
            try:
                if self._file is None:
                    self._file = self._new_file(record)
                else:
                    write_all(self._file, record)
            except OSError as error:
                self._outage.missing += bool(record)
                self._give_up(self._file, error)
            else:
                self._outage.succeeded()

    def _new_file(self, record: bytes) -> FileIO:
        """A file with a first record. It lies on the disk, so that what hides earlier files is written once."""
        events = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if self._purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            events.append(Event(wall_time=time.time(), step=self._purge_step, session_log=start))
        name = f"events.out.tfevents.{self._stamp():010d}.{socket.gethostname()}{self.filename_suffix}"
        path = self.folder / name
        file = path.open("xb", buffering=0)
        try:
            write_all(file, b"".join(map(_record, events)) + record)
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                path.unlink()
            raise
        self._purge_step = None
        return file

    def _stamp(self) -> int:
        """The time in seconds, or what puts the file behind those there are: TensorBoard reads them in that order."""
        found = (_EVENT_FILE.match(path.name) for path in self.folder.glob("events.out.tfevents.*"))
        return max(int(time.time()), *(int(match[1]) + 1 for match in found if match), 0)

    def _give_up(self, file: FileIO | None, error: OSError) -> None:
        """Go on without this file."""
        with self._lock:
            if self._file is file:
                self._close_file()
                self._outage.failed(error)

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _record(event: Event) -> bytes:
    """An event as it lies in a file: length, content, and the checksums of both.

    Source: TFRecord, https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + checksums[0] + content + checksums[1]


def _to_disk(descriptor: int) -> None:
    """Wait for the disk to have a file's content; closes the descriptor."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
