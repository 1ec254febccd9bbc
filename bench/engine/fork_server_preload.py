"""Imported once by the fork server, before it forks: what every worker needs, and nothing that uses a GPU."""

import gc
import signal

from ..stages import table  # noqa: F401
from . import companions, worker  # noqa: F401

gc.freeze()  # workers don't search torch's objects for garbage, and so share their memory
# A SIGTERM to the whole process group must leave workers the time for a last checkpoint.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
