"""Starts the processes that run stages: forked from a server that has imported torch, where that is possible.

Importing torch takes seconds, forking a process that has imported it takes milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from ..runtime.output_streams import make_lasting
from ..runtime.parent import die_with_parent

PRELOAD = [f"{__package__}.fork_server_preload"]
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # from glibc 2.35 on; other systems and versions ignore the name
# Variables that libraries read while they are loaded; changing them later has no effect.
READ_ON_START = ("GLIBC_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "HF_", "TORCH", "PYTORCH", "PYTHON")

_server_variables: dict[str, str] | None = None  # those of READ_ON_START that the fork server has


def start_variables(threads: int) -> dict[str, str]:
    """Environment variables of a process that computes with a number of threads.

    Two OpenMP pools on busy cores slow each other tenfold. With huge pages, which glibc asks the kernel for,
    a training step on a CPU takes 4 to 6 % less time; the user's own settings of glibc go first.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    glibc = [HUGE_PAGES, *filter(None, [os.environ.get("GLIBC_TUNABLES")])]  # the last one counts
    passive = {"OMP_WAIT_POLICY": "passive", "GLIBC_TUNABLES": ":".join(glibc)}
    return {name: str(threads) for name in names} | passive


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that are started within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def without_main_module() -> Iterator[None]:
    """Lets processes that are started within the block not run this one's script or notebook again.

    They would import its `__main__` under another name, and so start a run of their own unless it is guarded
    by `if __name__ == "__main__"`. What they run is ours, and nothing of the script's.
    """
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = ours


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Lets a Ctrl-C wait until the block has ended, and reach no process that is started within it.

    A new process prints a traceback if it is interrupted while it still imports its modules.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def process_context(variables: Mapping[str, str]) -> BaseContext:
    """The fork server, started if need be, if libraries read the same variables in it; otherwise spawn.

    Processes of the fork server have its other variables: they must set their own. They ignore SIGTERM.
    """
    global _server_variables
    if sys.platform != "linux":  # forking a process that has used macOS's frameworks is unsafe
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    with environ(variables):
        read = {name: value for name, value in os.environ.items() if name.startswith(READ_ON_START)}
        if _server_variables is None:
            context.set_forkserver_preload(PRELOAD)
            _server_variables = read
        if read != _server_variables:
            return multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # which would let interrupts through to what is started after it
        with without_interrupts():
            forkserver.ensure_running()
    return context


def start_process(
    target: Callable[..., None], arguments: tuple[Any, ...], name: str, variables: Mapping[str, str]
) -> BaseProcess:
    """Starts a process with some environment variables; it ends when this one does and ignores Ctrl-C."""
    context = process_context(variables)
    everything = dict(os.environ) | dict(variables)
    process = context.Process(target=_begin, args=(everything, target, arguments), name=name)  # type: ignore[attr-defined]
    with environ(variables), without_interrupts(), without_main_module():
        process.start()
    return process


def _begin(variables: dict[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    die_with_parent()
    _let_the_kernel_end_this_process_first()
    make_lasting()  # what a part prints is no reason to fail its stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine decides what Ctrl-C means
    if hasattr(signal, "pthread_sigmask"):  # which the engine has blocked until here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    target(*arguments)


def _let_the_kernel_end_this_process_first() -> None:
    """Asks Linux to kill this process first where memory runs out: the engine survives, and tells it."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
