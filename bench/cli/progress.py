"""Live progress: the leaderboard as it fills and a line per worker on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..engine.schedule import Event
from ..engine.time_to_go import TimeToGo
from ..engine.watcher import Ahead, SoFar, Watcher
from ..plan.plan import Cell
from ..plan.rounds import Round, compared
from ..records.record import Record
from ..report.summary import terminal_summary
from .safe_text import Text, escape_control_characters

SYMBOLS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[yellow]–[/]"}
TABLE_PAUSE = 50  # times as long as a table took to make passes before the next is made


class Display(Watcher):
    """Shows what a run does; a context manager that owns the terminal while stages run.

    Args:
        total: the number of stages that the run needs, of which `cached` are there.
        workers: the number of stages that are made at a time.
        page: the report's page, which is partial until the run ends; without it no round is shown.
        quiet: shows failures and notes alone.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        cached: int,
        workers: int,
        page: Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.console, self.total, self.finished, self.quiet = console, total, cached, quiet
        self.jobs, self.page = workers, page
        self.began: dict[str, float] = {}
        self.traces: list[str] = []  # of failed stages
        self.time: TimeToGo | None = None
        self.first: Round | None = None  # the first comparison, until it is complete
        self.first_stages: Sequence[str] = ()
        self.records: dict[str, Record] = {}  # of this run, by cell key
        self.table, self.table_due = Text(""), 0.0
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
            self.shown = Live(
                get_renderable=lambda: Group(self.stages, Text(self._ahead()), self.table),
                console=self.console,
                refresh_per_second=5,
                transient=True,
            )
            self.shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown is not None:
            self.shown.stop()

    def begin(self, ahead: Ahead) -> None:
        """Knows what the run is about to make, so that the time to go can be told."""
        self.time = TimeToGo(ahead.stages, ahead.costs, self.jobs)
        if self.page is not None and len(ahead.rounds) > 1:
            self.first, self.first_stages = ahead.rounds[0], ahead.first

    def hear(self, event: Event) -> None:
        """Shows one event of the engine."""
        stage = event.stage
        if self.time is not None:
            self.time.hear(event)
        if event.trace:
            self.traces.append(event.trace)
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
                self._line(f"done   {stage.kind:<9} {stage.label}  {took}  {count}{self._to_go(', ')}")
            else:
                self._line(f"FAILED {stage.kind:<9} {stage.label}: {event.text}  {count}", always=True)

    def cell(self, cell: Cell, record: Record) -> None:
        """Shows a finished cell; skipped ones are told before the run begins."""
        self.records[record.key] = record
        if self.live and time.monotonic() >= self.table_due:
            self._make_table()
        if record.status == "skipped":
            return
        if self.live or record.status != "done":
            reason = f": {record.reason}" if record.reason else ""
            if self.live:
                self.console.print(
                    f"{SYMBOLS[record.status]} {escape(escape_control_characters(cell.name + reason))}"
                )
            else:
                self._line(f"{record.status:<8}cell      {cell.name}{reason}", always=True)

    def round(self, so_far: SoFar) -> None:
        """Shows the leaderboard of a comparison that is complete, while others are still made."""
        self.first = None
        if self.quiet or self.page is None:
            return
        if self.live:
            self._make_table()
        lines = [f"\ncompared: {compared(so_far.round)}"]
        lines += [] if self.live else [terminal_summary(so_far.records)]
        lines.append(f"{so_far.to_come} {self._to_go().capitalize()}\n{self.page} shows this now")
        self.console.print(Text("\n".join(lines)), soft_wrap=True)

    def _make_table(self) -> None:
        """Makes the leaderboard of the cells so far, below the bars: a low terminal cuts what stands last."""
        started = time.monotonic()
        self.table = Text(terminal_summary(self.records.values()))
        ended = time.monotonic()
        self.table_due = ended + TABLE_PAUSE * (ended - started)

    def _ahead(self) -> str:
        """The time to go and the first comparison, for a terminal."""
        first = self._to_go(stages=self.first_stages) if self.first is not None else ""
        if self.first is None or not first:
            return self._to_go()
        return f"{self._to_go()}; the first comparison, of {compared(self.first)}: {first}"

    def _to_go(self, before: str = "", stages: Sequence[str] | None = None) -> str:
        """`about 12 min to go`, or nothing as long as no stage has told the speed, and at the end."""
        seconds = self.time.remaining(stages) if self.time is not None else None
        return "" if not seconds else f"{before}{about(seconds)} to go"

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


def about(seconds: float) -> str:
    """A rough duration: `about 12 min`."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {seconds / 3600:.1f} h"
