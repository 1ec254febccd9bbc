"""Standard output and error that never end a process: neither by a letter nor by a reader that is gone.

A run of hours prints to a pipe that may close (`| head`), to a terminal that may go away, into a file on a
disk that may be full, and in a locale that may have no arrows.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

GONE = (errno.EPIPE, errno.EIO)  # who reads has closed the pipe, or the terminal is closed


class LastingFile(io.FileIO):
    """A file whose failed writes are dropped; `failure` is the first error, `gone` if nobody reads on."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: io.BytesIO | bytes | memoryview) -> int:  # type: ignore[override]
        """Writes bytes, and claims to have written all of them where that fails."""
        if self.failure is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.failure = error
        return len(memoryview(data).cast("B"))  # type: ignore[arg-type]

    @property
    def lost(self) -> str | None:
        """The reason why text that somebody wants to read was not written; None if there is none."""
        if self.failure is None or self.failure.errno in GONE:
            return None
        return os.strerror(self.failure.errno or errno.EIO)


def make_lasting() -> LastingFile | None:
    """Replaces standard output and error by streams that never fail; returns the file of the output.

    Characters that a stream's encoding lacks become question marks. A descriptor that is closed (`>&-`) is
    opened on nothing: the next file that is opened would get its number, and then all that is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(nothing, True)
    stdout, output = _lasting(sys.stdout, 1)
    errors, _ = _lasting(sys.stderr, 2)
    sys.stdout, sys.stderr = stdout, errors  # type: ignore[assignment]  # there may have been none
    return output


def _lasting(stream: TextIO | None, descriptor: int) -> tuple[TextIO | None, LastingFile | None]:
    """A stream that never fails in place of another one, and its file; one in memory stays as it is."""
    try:
        raw = LastingFile(descriptor if stream is None else stream.fileno())
    except (OSError, ValueError):
        return stream, None
    if stream is not None:
        stream.flush()
    at_once = descriptor == 2 or raw.isatty() or getattr(stream, "write_through", False)
    encoding = "utf-8" if stream is None else stream.encoding
    buffer = io.BufferedWriter(raw)  # type: ignore[type-var]  # its stub asks for more than it calls
    return io.TextIOWrapper(buffer, encoding, errors="replace", line_buffering=at_once), raw
