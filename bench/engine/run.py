"""A run: makes the stages of a matrix, and writes each cell's record and the leaderboard as it finishes."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

from ..matrix.load import resolved
from ..matrix.matrix import Matrix
from ..plan.plan import Cell, Plan
from ..records.record import Record
from ..store.artifacts import NoLocks, Store, alone
from ..store.disk import DiskFull, explain_disk_full, replace_text
from ..store.hashes import Corrupt
from .local import Engine
from .results_folder import ResultsWriter
from .run_options import RunError, RunOptions
from .schedule import EngineError, Event

if TYPE_CHECKING:
    from .ray_cluster import RayEngine

SHARE = 20  # times that tables of thousands of cells take pass before they are written again
LOOKS = 5  # at most, at artifacts that break while they are read


def run(
    matrix: Matrix,
    plan: Plan,
    cells: list[Cell],
    store: Store,
    options: RunOptions,
    listen: Callable[[Event], None],
    announce: Callable[[Cell, Record], None],
) -> list[Record]:
    """Makes the chosen cells of a plan and returns the records of the results folder.

    Artifacts that aren't what was written are made again, also those that no score waits for: records have
    their curves.

    Raises:
        RunError: nothing has been written, or no stage could start.
        NoRoom: some of the results could not be written; all that could be is.
    """
    needed = plan.needed(cells)
    missing = next((stage for stage in needed if not stage.known), None)
    if missing is not None:
        raise RunError(f"{missing.label}: its data or weights are not on this machine")
    processes = options.processes
    for stage in needed:
        batch = stage.config.get("batch", 0)
        if batch % processes:
            raise RunError(f"a batch of {batch} has no equal shares for {processes} processes")
    prepare(matrix, plan, store, options, cells)
    for stage in needed:
        if said := store.upload(stage):
            listen(Event("note", stage, text=said))
    book = ResultsWriter(matrix, plan, store, options)
    kept = book.finished() if options.keep_records else set()
    pending = [cell for cell in cells if cell.key not in kept]
    due = 0.0  # when tables are written again
    spoiled: dict[str, Exception] = {}  # why a cell's record could not be written
    if options.rerun:
        for stage in plan.needed(pending):
            store.discard(stage)
    engine = _engine(matrix, plan, store, options)

    def settle(final: bool = False) -> None:
        decided = []
        for cell in pending:
            ends = list(cell.scores.values())
            if broken:
                ends += [stage.id for stage in plan.needed([cell]) if stage.id in broken]
            stopped = final and any(one in engine.failures for one in ends)
            if stopped or all(one in engine.done or one in engine.failures for one in ends):
                decided.append(cell)
        for cell in decided:
            try:
                with explain_disk_full(options.out):
                    record = book.write(cell, engine.failures)
            except (Corrupt, DiskFull) as error:  # it stays pending, and others may do
                spoiled[cell.key] = error
                continue
            spoiled.pop(cell.key, None)
            pending.remove(cell)
            announce(cell, record)
        if decided and not final and time.monotonic() >= due:
            publish()

    def publish(complete: bool = False) -> list[Record]:
        nonlocal due
        started = time.monotonic()
        try:
            with explain_disk_full(options.out):
                return book.publish(complete)
        except DiskFull as error:
            if complete:
                spoiled.setdefault("", error)
            return []
        finally:
            took = time.monotonic() - started
            due = time.monotonic() + (SHARE * took if took > 1 else 0)

    def heard(event: Event) -> None:
        listen(event)
        if event.what == "done" and (event.stage.kind == "scores" or event.stage.id in broken):
            settle()

    for _ in range(LOOKS):
        broken = _broken(plan, store, pending, listen)
        wanted = dict.fromkeys(one for cell in pending for one in cell.scores.values())
        settle()  # skipped cells have nothing to wait for
        try:
            engine.run([*wanted, *(broken - wanted.keys())], heard, options.fail_fast)
        except EngineError as error:
            raise RunError(str(error)) from error
        settle(final=True)
        if not any(isinstance(error, Corrupt) for error in spoiled.values()):
            break
    found = publish(complete=True)
    for why in spoiled.values():
        if isinstance(why, Corrupt):
            raise RunError(f"artifacts in {store.root} break again and again: {why}")
        raise DiskFull(f"not all results are written: {why}; run again when there is room")
    return found


def _engine(matrix: Matrix, plan: Plan, store: Store, options: RunOptions) -> Engine | RayEngine:
    how: dict[str, Any] = {
        "threads": matrix.threads,
        "device": options.device,
        "precision": matrix.precision,
        "plugins": list(matrix.plugins),
        "loaders": options.loaders,
        "processes": options.processes,
    }
    if options.engine == "local":
        return Engine(plan, store, jobs=options.jobs or 1, **how)
    from .ray_cluster import RayEngine

    return RayEngine(plan, store, jobs=options.jobs, address=options.ray_address, **how)


def _broken(plan: Plan, store: Store, cells: list[Cell], listen: Callable[[Event], None]) -> set[str]:
    """The stages of these cells whose artifacts aren't what was written, now or when a run last looked."""
    before, found = store.quarantined_keys(), set()
    for stage in plan.needed(cells):
        try:
            said = store.quarantine_if_corrupt(stage, contents=stage.kind == "scores")
        except OSError as error:
            raise RunError(
                f"an artifact in {store.root} is broken and cannot be set aside: {error}"
            ) from error
        if said:
            listen(Event("note", stage, text=said))
        if said or (stage.key in before and not store.has(stage)):
            found.add(stage.id)
    return found


def prepare(matrix: Matrix, plan: Plan, store: Store, options: RunOptions, cells: list[Cell]) -> None:
    """Fails before any work if a folder cannot be written; sets aside records of another matrix.

    Nothing is written to a cache that has all that is asked for.
    """
    folders = [options.out / "records"]
    if options.rerun or not all(
        store.has(plan.stages[one]) for cell in cells for one in cell.scores.values()
    ):
        folders.append(store.root / "locks")
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # a read-only mount says nothing until it is written to
                pass
            if folder.name == "locks":
                with alone(folder / f"probe.{uuid.uuid4().hex}"):
                    pass
        except NoLocks as error:
            raise RunError(str(error)) from error
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    mine = {cell.key for cell in plan.cells}
    for file in sorted((options.out / "records").glob("*.json")):
        with suppress(FileNotFoundError):  # another run has done it
            try:
                foreign = Record.from_json(file.read_text()).key not in mine
            except ValueError:
                foreign = True
            if foreign:
                file.rename(file.with_suffix(".json.stale"))
    text = yaml.safe_dump(resolved(matrix, options.out), sort_keys=False, allow_unicode=True)
    said = f"# profile {options.profile}\n" if options.profile else ""
    replace_text(options.out / "matrix.lock.yaml", said + text)
