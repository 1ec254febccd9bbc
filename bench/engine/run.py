"""A run: makes the stages of a matrix, and writes each cell's record and the leaderboard as it finishes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from ..leaderboard.numbers import plural
from ..plan.cost import Cost
from ..plan.plan import Cell
from ..plan.rounds import Round, rounds, to_come
from ..records.git import tracked_records, tracks
from ..records.packed_folder import PACKED
from ..records.record import Record
from ..report.places import check_folder, check_places
from ..store.artifacts import alone
from ..store.disk import DiskFull, explain_disk_full
from ..store.hashes import Corrupt
from .memory_check import check_memory
from .open_plan import OpenPlan
from .results_folder import ResultsWriter
from .run_options import RunError, RunOptions
from .schedule import EngineError, Event, Schedule
from .set_aside import foreign_records
from .setting import Setting
from .watcher import Ahead, SoFar, Watcher, Watchers

# After a slow rewrite of the report, the next one waits this many times as long as that one took.
REWRITE_PAUSE = 50
ATTEMPTS = 5  # how often a run starts over when artifacts turn out corrupt while they are read


def run(opened: OpenPlan, options: RunOptions, *watchers: Watcher) -> list[Record]:
    """Makes the chosen cells of a plan and returns the records of the results folder.

    Cells are made round by round (`plan.rounds`), so that a small comparison stands early. Corrupt artifacts
    are made again, also those that no score waits for: records contain their curves.

    Args:
        watchers: are told of every event, every cell whose record is written and every complete round.

    Raises:
        RunError: nothing has been written, or no stage could start.
        NotWritable: the results folder or the cache cannot be written; nothing has been.
        DiskFull: some of the results could not be written; all that could be is.
    """
    _check_stages(opened, options.processes)
    _check_gpus(options)
    _check_tracked(opened, options)
    estimates = opened.estimates(options.rerun)
    check_memory(opened.plan, estimates, options)
    _check_folders(opened, options)
    return _Run(opened, options, estimates, Watchers(watchers)).make()


class _Run:
    """The state of a run: its engine, the cells without a record, and what went wrong."""

    def __init__(
        self, opened: OpenPlan, options: RunOptions, estimates: Mapping[str, Cost], watcher: Watcher
    ) -> None:
        self.opened = opened
        self.plan, self.store, self.options = opened.plan, opened.store, options
        self.watcher = watcher
        self.results = ResultsWriter(opened, options)
        if aside := self.results.begin():
            watcher.note(aside)
        self.engine = _engine(opened, options)
        recorded = self.results.finished() if options.keep_records else set()
        self.pending = [cell for cell in opened.cells if cell.key not in recorded]
        self.rounds = rounds(self.plan, self.pending, estimates)  # those that aren't complete
        ahead = [stage for stage in self.plan.needed(self.pending) if stage.id in estimates]
        first = [stage.id for stage in self.plan.needed(self.rounds[0].cells)] if self.rounds else []
        watcher.begin(Ahead(self.rounds, ahead, estimates, first))
        self.corrupt: set[str] = set()  # ids of stages whose artifacts were corrupt
        self.unwritten: dict[
            str, Corrupt | DiskFull
        ] = {}  # by cell key, why it has no record; "": the tables
        self.report_due = 0.0  # when the report may be written again

    def make(self) -> list[Record]:
        """Makes all stages, and returns the records of the results folder."""
        for stage in self.opened.needed:
            if note := self.store.upload(stage):
                self.watcher.hear(Event("note", stage, text=note))
        if self.options.rerun:
            for stage in self.plan.needed(self.pending):
                self.store.discard(stage)
        for _ in range(ATTEMPTS):
            self.corrupt = self._quarantine_corrupt()
            self._discard_failed_scores()
            self._write_decided_cells()  # skipped cells wait for no stage
            self._make_stages()
            self._write_decided_cells(final=True)
            if not any(isinstance(error, Corrupt) for error in self.unwritten.values()):
                break
        records = self._write_report()
        for error in self.unwritten.values():
            if isinstance(error, Corrupt):
                raise RunError(f"artifacts in {self.store.root} break again and again: {error}")
            raise DiskFull(f"not all results are written: {error}; run again when there is room")
        return records

    def _quarantine_corrupt(self) -> set[str]:
        """The ids of pending cells' stages whose artifacts are corrupt, or were when a run last read them."""
        quarantined, corrupt = self.store.quarantined_keys(), set()
        for stage in self.plan.needed(self.pending):
            try:
                note = self.store.quarantine_if_corrupt(stage, contents=stage.kind == "scores")
            except OSError as error:
                raise RunError(
                    f"an artifact in {self.store.root} is broken and cannot be set aside: {error}"
                ) from error
            if note:
                self.watcher.hear(Event("note", stage, text=note))
            if note or (stage.key in quarantined and not self.store.has(stage)):
                corrupt.add(stage.id)
        return corrupt

    def _discard_failed_scores(self) -> None:
        """Lets evaluators that raised an exception in an earlier run try again, as failed stages do."""
        for stage in self.plan.needed(self.pending):
            if stage.kind == "scores" and stage.id not in self.engine.done and self.store.has(stage):
                missing = self.store.get(stage).info.get("missing", {})
                if any(why["failed"] for why in missing.values()):
                    self.store.discard(stage)

    def _make_stages(self) -> None:
        pending = {cell.key for cell in self.pending}
        cells = (cell for round in self.rounds for cell in round.cells if cell.key in pending)
        scores = dict.fromkeys(stage for cell in cells for stage in cell.scores.values())
        try:
            self.engine.run([*scores, *(self.corrupt - scores.keys())], self._hear, self.options.fail_fast)
        except EngineError as error:
            raise RunError(str(error)) from error

    def _hear(self, event: Event) -> None:
        self.watcher.hear(event)
        if event.what == "done" and (event.stage.kind == "scores" or event.stage.id in self.corrupt):
            self._write_decided_cells()

    def _write_decided_cells(self, final: bool = False) -> None:
        """Writes the records of pending cells whose stages have ended; `final`: or of which one failed."""
        decided = [cell for cell in self.pending if self._is_decided(cell, final)]
        for cell in decided:
            try:
                with explain_disk_full(self.options.out):
                    record = self.results.write(cell, self.engine.failures)
            except (Corrupt, DiskFull) as error:  # the cell stays pending; others may still be written
                self.unwritten[cell.key] = error
                continue
            self.unwritten.pop(cell.key, None)
            self.pending.remove(cell)
            self.watcher.cell(cell, record)
        if final or not decided:
            return
        complete = self._complete_rounds()
        if self.pending and (complete or time.monotonic() >= self.report_due):
            wanted = [cell for cell in self.opened.cells if not cell.real and cell.skipped is None]
            left_over = {cell.key for cell in self.pending}
            left = to_come(self.rounds, sum(cell.key in left_over for cell in wanted), len(wanted))
            records = self._write_report(left)
            for round in complete:
                self.watcher.round(SoFar(round, records, left))

    def _complete_rounds(self) -> list[Round]:
        """The rounds whose last cell has just got its record."""
        pending = {cell.key for cell in self.pending}
        complete: list[Round] = []
        left: list[Round] = []
        for round in self.rounds:
            (left if any(cell.key in pending for cell in round.cells) else complete).append(round)
        self.rounds = left
        return complete

    def _is_decided(self, cell: Cell, final: bool) -> bool:
        ends = list(cell.scores.values())
        if self.corrupt:
            ends += [stage.id for stage in self.plan.needed([cell]) if stage.id in self.corrupt]
        if final and any(stage in self.engine.failures for stage in ends):
            return True
        return all(stage in self.engine.done or stage in self.engine.failures for stage in ends)

    def _write_report(self, to_come: str = "") -> list[Record]:
        """Writes the report, a partial one if `to_come` says what is missing; returns all its records."""
        started = time.monotonic()
        try:
            with explain_disk_full(self.options.out):
                return self.results.publish(to_come)
        except DiskFull as error:
            if not to_come:
                self.unwritten.setdefault("", error)
            return []
        finally:
            seconds = time.monotonic() - started
            self.report_due = time.monotonic() + (REWRITE_PAUSE * seconds if seconds > 1 else 0)


def _engine(opened: OpenPlan, options: RunOptions) -> Schedule:
    matrix, store = opened.matrix, opened.store
    setting = Setting(
        store.root,
        tuple(matrix.plugins),
        matrix.threads,
        options.device,
        matrix.precision,
        options.loaders,
        store.url,
        options.processes,
    )
    if options.engine == "inline":
        from .inline import InlineEngine

        return InlineEngine(opened.plan, store, setting)
    if options.engine == "ray":
        from .ray_cluster import RayEngine

        return RayEngine(opened.plan, store, setting, options.jobs, options.ray_address)
    from .local import Engine

    return Engine(opened.plan, store, setting, options.jobs or 1)


def _check_stages(opened: OpenPlan, processes: int) -> None:
    missing = next((stage for stage in opened.needed if not stage.known), None)
    if missing is not None:
        raise RunError(f"{missing.label}: its data or weights are not on this machine")
    for stage in opened.needed:
        batch = stage.config.get("batch", 0)
        if batch % processes:
            raise RunError(f"a batch of {batch} has no equal shares for {processes} processes")


def _check_gpus(options: RunOptions) -> None:
    """Raises RunError if the processes of a stage had to share a GPU, which nccl refuses."""
    if options.device != "cuda" or options.processes == 1 or options.engine == "ray":
        return
    from .companions import by_torchrun
    from .local import visible_gpus

    gpus = len(visible_gpus())
    if options.processes > gpus and not by_torchrun():  # whose processes may be on other machines
        raise RunError(
            f"{options.processes} processes for a stage need a GPU each, and there is {plural(gpus, 'GPU')}: "
            f"take --processes {max(1, gpus)}; -j 2 runs two stages at a time on one GPU"
        )


def _check_tracked(opened: OpenPlan, options: RunOptions) -> None:
    """Raises RunError if git tracks records that the run would replace or set aside unasked."""
    if not options.overwrite and tracks(options.out / PACKED):
        raise RunError(
            f"git tracks the packed records in {options.out}: choose another folder with -o DIR, or first "
            "unpack them with `bench compact`"
        )
    tracked = [] if options.overwrite else tracked_records(options.out)
    if options.keep_records:  # they stay, unless they are of another matrix
        tracked = list(foreign_records(tracked, {cell.key for cell in opened.plan.cells}))
    if not tracked:
        return
    found = f"git tracks {plural(len(tracked), 'record')} in {options.out}"
    if options.keep_records:
        found += ", which are of another matrix or version"
        choices = "or set them aside with --overwrite"
    else:
        choices = "add to them with --keep-records, or replace them with --overwrite"
    raise RunError(f"{found}: choose another folder with -o DIR, {choices}")


def _check_folders(opened: OpenPlan, options: RunOptions) -> None:
    """Raises an error before any work if a folder cannot be written; a complete cache may be read-only."""
    plan, store = opened.plan, opened.store
    check_places(options.out)
    check_folder(options.out / "records")
    scores = [plan.stages[stage] for cell in opened.cells for stage in cell.scores.values()]
    if options.rerun or not all(map(store.has, scores)):
        locks = store.root / "locks"
        check_folder(locks)
        try:
            with alone(locks / f"probe.{uuid.uuid4().hex}"):  # raises NoLocks where locks don't work
                pass
        except OSError as error:
            raise RunError(f"cannot lock files in {locks}: {error.strerror}") from error
