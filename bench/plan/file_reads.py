"""The files that code opens for reading."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = (".py", ".pyc", ".so", ".pth", ".dist-info")
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr/share/zoneinfo")
_recording: list[set[Path]] = []  # of the blocks that are being recorded
_hooked = False


@contextmanager
def recorded_reads() -> Iterator[set[Path]]:
    """The data files that are opened for reading within the block, by Python's `open`.

    Files of Python, of installed packages and of the system are left out; libraries that open files without
    Python aren't seen.
    """
    global _hooked
    if not _hooked:  # for the life of the process, as Python cannot remove such a hook
        sys.addaudithook(_note)
        _hooked = True
    found: set[Path] = set()
    _recording.append(found)
    try:
        yield found
    finally:
        _recording.remove(found)
        found.difference_update([file for file in found if not file.is_file()])


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recording or event != "open":
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE == os.O_RDONLY:
        file = os.path.abspath(os.fsdecode(path))
        if not file.startswith((*_installed(), *SYSTEM)) and not file.endswith(PROGRAMS):
            for found in _recording:
                found.add(Path(file))


def _installed() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(sysconfig.get_paths()[name] + os.sep for name in names)
