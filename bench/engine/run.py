"""A run: makes the stages of a matrix, and writes each cell's record and the leaderboard as it finishes."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..matrix.load import resolved
from ..matrix.matrix import Matrix
from ..plan.make import PROBE, Cell, Plan
from ..records.provenance import parts, provenance
from ..records.records import Record, in_order, new_records, write_record
from ..report import image_grids
from ..report.write import write_report
from ..store.artifacts import Artifact, NoLocks, Store, alone
from ..store.disk import NoRoom, replace_text, room
from ..store.hashes import Corrupt, identity
from .local import Engine
from .schedule import EngineError, Event

if TYPE_CHECKING:
    from .ray_cluster import RayEngine

SHARE = 20  # times that tables of thousands of cells take pass before they are written again
LOOKS = 5  # at most, at artifacts that break while they are read


class RunError(Exception):
    """A run that cannot start; the message is meant for users."""


@dataclass(frozen=True)
class Options:
    """How to run; nothing in it changes a number."""

    out: Path
    jobs: int | None  # the most stages at a time; None: as many as a Ray cluster holds
    device: str = "cpu"
    fail_fast: bool = False
    keep_records: bool = False
    rerun: bool = False
    profile: str = ""  # of the matrix, or several joined by hyphens; tables say it
    loaders: int = 0  # processes per worker that decode images ahead
    processes: int = 1  # that share each stage of a worker
    engine: str = "local"
    ray_address: str | None = None  # of a cluster; None starts one here


def run(
    matrix: Matrix,
    plan: Plan,
    cells: list[Cell],
    store: Store,
    options: Options,
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
        if said := store.share(stage):
            listen(Event("note", stage, text=said))
    book = Book(matrix, plan, store, options)
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
                with room(options.out):
                    record = book.write(cell, engine.failures)
            except (Corrupt, NoRoom) as error:  # it stays pending, and others may do
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
            with room(options.out):
                return book.publish(complete)
        except NoRoom as error:
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
        raise NoRoom(f"not all results are written: {why}; run again when there is room")
    return found


def _engine(matrix: Matrix, plan: Plan, store: Store, options: Options) -> Engine | RayEngine:
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
    before, found = store.set_aside(), set()
    for stage in plan.needed(cells):
        try:
            said = store.mend(stage, contents=stage.kind == "scores")
        except OSError as error:
            raise RunError(
                f"an artifact in {store.root} is broken and cannot be set aside: {error}"
            ) from error
        if said:
            listen(Event("note", stage, text=said))
        if said or (stage.key in before and not store.has(stage)):
            found.add(stage.id)
    return found


def prepare(matrix: Matrix, plan: Plan, store: Store, options: Options, cells: list[Cell]) -> None:
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


class Book:
    """The results folder: records and pictures of cells, and the tables made from all of its records."""

    def __init__(self, matrix: Matrix, plan: Plan, store: Store, options: Options) -> None:
        self.matrix, self.plan, self.store, self.options = matrix, plan, store, options
        self.folder = options.out
        self.title = matrix.name + (f", profile {options.profile}" if options.profile else "")
        self.seen: dict[str, tuple[int, ...]] = {}
        self.records: dict[str, Record] = {}
        self._read()

    def _read(self) -> None:
        """What other runs have written to the folder, too."""
        self.records |= {record.key: record for record in new_records(self.folder / "records", self.seen)}

    def finished(self) -> set[str]:
        """The keys of the cells that the folder has finished records of."""
        return {key for key, record in self.records.items() if record.status != "failed"}

    def write(self, cell: Cell, failures: dict[str, str]) -> Record:
        """The record of a cell whose stages are made, failed or skipped."""
        reason = cell.skipped
        metrics: dict[str, Any] = {}
        curves: dict[str, Any] = {}
        quality: dict[str, list[Any]] = {}
        cost: dict[str, Any] = {}
        for guidance, one in cell.scores.items():
            if one in failures:
                reason = reason or failures[one]
            scores = self._artifact(one)
            if scores is None or scores.error is not None:
                continue
            if guidance.startswith(PROBE):
                along = {name: entry["value"] for name, entry in scores.info["metrics"].items()}
                for name, value in {"step": int(guidance.removeprefix(PROBE)), **along}.items():
                    quality.setdefault(name, []).append(value)
                continue
            suffix = f"@{guidance}" if guidance else ""
            metrics |= {f"{name}{suffix}": entry for name, entry in scores.info["metrics"].items()}
            cost |= {f"{name}{suffix}": value for name, value in scores.info["cost"].items()}
        for stage in self.plan.needed([cell]):
            artifact = self._artifact(stage.id)
            if artifact is not None and artifact.error is None and artifact.info.get("curves"):
                curves[stage.kind] = artifact.info["curves"]
        if quality:
            curves["quality"] = quality
        status = "skipped" if cell.skipped else "failed" if reason else "done"
        record = Record(
            cell.identity, cell.key, status, reason, metrics, curves, cost, self._provenance(cell)
        )
        file = write_record(self.folder / "records", record)
        self.seen[file.name] = identity(file)
        self.records[record.key] = record
        self._pictures(cell)
        return record

    def publish(self, complete: bool = False) -> list[Record]:
        """The leaderboard of all records in the folder; what takes seconds, at the end."""
        with self._alone():
            self._read()
            found = in_order(self.records.values())
            if complete:
                self._reconstructions()
            write_report(self.folder, found, self.title, complete)
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one run after the other read records and write tables, so that the last one's have all.

        A network folder shows the newest records to a client that has just written beside them.
        """
        with ExitStack() as held:
            with suppress(NoLocks):  # then the last to write may have missed what others just wrote
                held.enter_context(alone(self.folder / "records" / ".publishing"))
            yield

    def _provenance(self, cell: Cell) -> dict[str, Any]:
        m = self.matrix
        uses = m.unnamed_parts(cell.identity)
        return (
            {"matrix": self.title}
            | provenance(self.options.device)
            | {
                "threads": m.threads,
                "precision": m.precision,
                "seed": cell.seed,
                "budget": m.budget_of_cell(cell.identity),
                "samples": m.samples,
                "parts": parts(stage.config for stage in self.plan.needed([cell])),
            }
            | ({"uses": uses} if uses else {})
        )

    def _artifact(self, one: str) -> Artifact | None:
        stage = self.plan.stages[one]
        return self.store.get(stage) if self.store.has(stage) else None

    def _pictures(self, cell: Cell) -> None:
        """Of the first seed: samples, and what evaluators drew."""
        if cell.seed != self.matrix.seeds[0].label:
            return
        for stage in self.plan.needed([cell]):
            artifact = self._artifact(stage.id) if stage.kind in ("samples", "scores") else None
            if artifact is None or artifact.error is not None or "snapshot" in stage.config:
                continue
            if stage.kind == "samples":
                images, labels = artifact.tensors["images"], artifact.tensors["labels"]
                name = image_grids.picture_name(cell.identity, f"@{stage.config['guidance']:g}")
                image_grids.write_samples(self.folder / "samples", name, images, labels)
                continue
            trained = cell.identity | ({"generator": ""} if stage.config["scope"] == "tokenizer" else {})
            for folder, group in (("figures", "figure"), ("samples", "picture")):
                for key, pixels in artifact.group(group).items():
                    image_grids.write_pixels(
                        self.folder / folder, image_grids.picture_name(trained, f"--{key}"), pixels
                    )

    def _reconstructions(self) -> None:
        """The first seed's tokenizers, each decoding the same held-out images."""
        import torch

        from ..api import to_uint8
        from ..models import build

        for row in self.matrix.datasets:
            rows: dict[str, torch.Tensor] = {}
            for cell in self.plan.cells:
                label = f"{cell.tokenizer} {cell.regularizer}"
                if cell.dataset != row.label or label in rows:
                    continue
                for stage in self.plan.needed([cell]):
                    artifact = self._artifact(stage.id) if stage.kind == "latents" else None
                    if artifact is not None and artifact.error is None and "round_trip" in artifact.info:
                        rows[label] = artifact.tensor("preview")
            dataset = build.dataset({"name": row.part, "options": row.options})
            if not rows or dataset.image.height < 2:  # a point is no picture
                continue
            count = min(64, dataset.size("val"))
            originals = to_uint8(dataset.images("val", torch.arange(count)))
            pairs = [("held-out images", originals), *rows.items()]
            image_grids.write_reconstructions(self.folder / "samples", pairs, f"{row.label}--reconstructions")
