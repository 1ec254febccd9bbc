"""Signals that end a run: Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from .console import out


class _Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP; after a KeyboardInterrupt itself Python may exit with the status of a Ctrl-C."""


@contextmanager
def resumable() -> Iterator[list[str]]:
    """Prints the command that goes on with an interrupted run, and exits with 130, 143 or 129.

    The printed command leaves out --rerun, which would undo what is done. The block appends the matrix to the
    list that it is given once its work begins.
    """
    begun: list[str] = []

    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)  # Ray turns the KeyboardInterrupt into another exception
        raise _Ended

    # A signal that is ignored stays ignored, which is what `nohup` is for. Only the main thread gets signals.
    in_main_thread = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {}
    number: int
    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):  # Windows has no SIGHUP
        if in_main_thread and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield begun
    except KeyboardInterrupt:
        number = received[-1] if received else signal.SIGINT
        again = shlex.join(["bench", *(word for word in sys.argv[1:] if word != "--rerun")])
        with suppress(OSError):  # the terminal may be gone
            what = (
                "interrupted; finished stages are kept. Go on"
                if begun
                else "interrupted before any work. Begin"
            )
            out.print(f"\n{what} with:\n  {again}", soft_wrap=True)
        raise typer.Exit(128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
