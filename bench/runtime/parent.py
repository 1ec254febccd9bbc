"""A process that ends when the process that started it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

SIGNAL_ON_PARENT_DEATH = 1  # PR_SET_PDEATHSIG


def die_with_parent() -> None:
    """Ends this process with its parent: by a kernel signal on Linux; elsewhere a thread polls the parent."""
    try:
        ctypes.CDLL(None).prctl(SIGNAL_ON_PARENT_DEATH, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
