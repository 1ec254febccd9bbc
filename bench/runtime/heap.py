"""The memory that a process keeps after it has freed it, as taking it from the kernel again costs time."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MAP_THRESHOLD = -1, -3  # numbers of glibc's parameters (malloc.h)
MAPPED = 2**25  # bytes from which a block is mapped on its own: the most that glibc lets a process choose
KEPT = 2**28  # bytes of freed memory at the heap's end that are kept


def keep_freed_memory() -> None:
    """Lets glibc's allocator keep up to 256 MB that this process has freed; no result depends on it.

    Its own rules follow the largest block that the process has freed so far. While that is a few MB, they
    return a network's activations to the kernel at the end of each layer and ask for them in the next one,
    where the kernel clears every page: up to a third of a small network's time on a CPU. Allocators of other
    systems stay as they are.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # other libraries than glibc may lack this function
        library.mallopt(MAP_THRESHOLD, MAPPED)
        library.mallopt(TRIM_THRESHOLD, KEPT)
