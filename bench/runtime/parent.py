"""A process that ends when the process that asked for it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading

SIGNAL_ON_PARENT_DEATH = 1  # PR_SET_PDEATHSIG


def die_with_parent() -> None:
    """Ends this process when the process that asked multiprocessing for it ends, in whatever way.

    A thread waits for that process; where the operating system's parent is another, such as a fork server,
    Linux kills this process with that one as well.
    """
    try:
        ctypes.CDLL(None).prctl(SIGNAL_ON_PARENT_DEATH, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a process of multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
