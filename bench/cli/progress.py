"""Live progress: a line per worker on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..engine.schedule import Event
from ..plan.plan import Cell
from ..records.record import Record
from .safe_text import Text, escape_control_characters

SYMBOLS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[yellow]–[/]"}


class Display:
    """Shows the events of an engine; a context manager that owns the terminal while stages run."""

    def __init__(self, console: Console, total: int, cached: int, quiet: bool = False) -> None:
        self.console, self.total, self.finished, self.quiet = console, total, cached, quiet
        self.began: dict[str, float] = {}
        self.skipped: set[str | None] = set()  # reasons
        self.live = console.is_terminal and not quiet
        self.stages = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self.overall = self.stages.add_task("[bold]stages", total=total, completed=cached)
        self.workers: dict[int, TaskID] = {}
        self.shown: Live | None = None

    def __enter__(self) -> Display:
        if self.live:
            self.shown = Live(Group(self.stages), console=self.console, refresh_per_second=5, transient=True)
            self.shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown is not None:
            self.shown.stop()

    def hear(self, event: Event) -> None:
        """Shows one event of the engine."""
        stage = event.stage
        if event.what == "started":
            self.began[stage.id] = time.monotonic()
            self._line(f"start  {stage.kind:<9} {stage.label}")
            self._worker(event, escape(f"{stage.kind} {stage.label}"), 0, None)
        elif event.what == "note":
            self.note(f"note   {stage.kind:<9} {stage.label}: {event.text}")
        elif event.what == "busy":
            self._line(f"busy   {stage.kind:<9} {stage.label}  {event.text}")
        elif event.what == "progress":
            text = f"{escape(f'{stage.kind} {stage.label}')} [dim]{escape(event.text)}[/]"
            self._worker(event, text, event.step, event.total)
        else:
            self.finished += 1
            self.stages.update(self.overall, completed=self.finished)
            seconds = time.monotonic() - self.began.get(stage.id, time.monotonic())
            count = f"[{self.finished}/{self.total}]"
            if event.what == "done":
                took = event.text or f"{seconds:.1f} s"
                self._line(f"done   {stage.kind:<9} {stage.label}  {took}  {count}")
            else:
                self._line(f"FAILED {stage.kind:<9} {stage.label}: {event.text}  {count}", always=True)

    def cell(self, cell: Cell, record: Record) -> None:
        """Shows a finished cell; of cells that are skipped for the same reason, only the first."""
        if record.status == "skipped":
            if record.reason in self.skipped:
                return
            self.skipped.add(record.reason)
        if self.live or record.status != "done":
            reason = f": {record.reason}" if record.reason else ""
            if self.live:
                self.console.print(
                    f"{SYMBOLS[record.status]} {escape(escape_control_characters(cell.name + reason))}"
                )
            else:
                self._line(f"{record.status:<8}cell      {cell.name}{reason}", always=True)

    def _worker(self, event: Event, text: str, step: int, total: int | None) -> None:
        if not self.live:
            return
        if event.worker not in self.workers:
            self.workers[event.worker] = self.stages.add_task("")
        task = self.workers[event.worker]
        if event.what == "started":
            self.stages.reset(task)
        self.stages.update(task, description=text, completed=step, total=total)

    def note(self, text: str) -> None:
        """Shows a line, on a terminal and with --quiet too."""
        self.console.print(Text(text), soft_wrap=True)

    def _line(self, text: str, always: bool = False) -> None:
        if not self.live and (always or not self.quiet):
            self.console.print(Text(text), soft_wrap=True)
