"""Progress of a run as one line that updates: in a notebook's output, or on a terminal."""

from __future__ import annotations

import html
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..engine.open_plan import OpenPlan
from ..engine.schedule import Event
from ..engine.watcher import Watcher

SECONDS = 0.2  # between two updates
WIDTH = 100  # characters of a line


class Line(Protocol):
    """A line of text beside a bar."""

    def show(self, done: float, total: int, text: str) -> None: ...

    def end(self) -> None: ...


class Progress(Watcher):
    """Counts the stages of a run and shows those that are being made."""

    def __init__(self, line: Line | None, total: int, cached: int) -> None:
        self.line, self.total, self.made = line, total, cached
        self.running: dict[str, tuple[str, float]] = {}  # by stage id: its text and the share that is done
        self.shown = 0.0

    def hear(self, event: Event) -> None:
        """Takes in one event of the engine."""
        stage = event.stage
        if event.what in ("started", "busy", "progress"):
            share = event.step / event.total if event.total else 0.0
            self.running[stage.id] = (f"{stage.kind} {stage.label} {event.text}".rstrip(), share)
        elif event.what in ("done", "failed", "diverged"):
            self.running.pop(stage.id, None)
            self.made += 1
        now = time.monotonic()
        if now - self.shown >= SECONDS:
            self.shown = now
            self.show()

    def note(self, text: str) -> None:
        """Warns whoever has called `run_opened`'s caller."""
        warnings.warn(text, stacklevel=7)

    def show(self) -> None:
        """Shows the state of the run."""
        if self.line is not None:
            done = self.made + sum(share for _, share in self.running.values())
            texts = [text for text, _ in self.running.values()]
            said = f"{self.made} of {self.total} stages" + "".join(f" · {text}" for text in texts)
            self.line.show(done, self.total, said if len(said) <= WIDTH else said[: WIDTH - 1] + "…")


@contextmanager
def shown_progress(plan: OpenPlan, rerun: bool, wanted: bool) -> Iterator[Progress]:
    """The progress of a run, shown within the block where there is a place for it."""
    needed = plan.needed
    cached = 0 if rerun else sum(plan.store.has(stage) for stage in needed)
    line = _line() if wanted else None
    progress = Progress(line, len(needed), cached)
    progress.show()
    try:
        yield progress
    finally:
        progress.running.clear()
        progress.show()
        if line is not None:
            line.end()


def _line() -> Line | None:
    """The line of a notebook or a terminal; None elsewhere: a log would keep every update."""
    if "IPython" in sys.modules:
        from IPython import get_ipython  # type: ignore[attr-defined]

        if getattr(get_ipython(), "kernel", None) is not None:
            return _NotebookLine()
    return _TerminalLine() if sys.stderr is not None and sys.stderr.isatty() else None


class _NotebookLine:
    """One output of a cell, which is replaced: neither a block for each update nor a widget that is lost."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, done: float, total: int, text: str) -> None:
        from IPython.display import display

        bar = f'<progress value="{done:.3f}" max="{total}"></progress>'
        data = {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"}
        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)

    def end(self) -> None:
        pass


class _TerminalLine:
    """A bar on a terminal that is gone when it ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        self.bars = Bars(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bars.add_task("")
        self.bars.start()

    def show(self, done: float, total: int, text: str) -> None:
        self.bars.update(self.task, completed=done, total=total, description=text)

    def end(self) -> None:
        self.bars.stop()
