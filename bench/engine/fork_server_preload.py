"""Imported once by the fork server, before it forks: what every worker needs, and nothing that uses a GPU."""

import signal

from ..stages import table  # noqa: F401
from . import companions, worker  # noqa: F401

# A SIGTERM to the whole process group must leave workers the time for a last checkpoint.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
