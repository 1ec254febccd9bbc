"""The cells of a results folder that can be made again, with their estimated cost, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engine.open_plan import OpenPlan
from ...engine.run import run
from ...engine.run_options import RunOptions
from ...engine.watcher import Watcher
from ...matrix.load import load_matrix
from ...matrix.matrix import Matrix
from ...matrix.yaml_text import MatrixError
from ...options.words import listed
from ...plan.cost import ACCELERATORS
from ...plan.estimate import costs
from ...plan.make import make_plan
from ...plan.plan import Cell, Plan
from ...records.files import RecordError, read_records
from ...records.labels import parse_filter, selects
from ...records.record import Record
from ...store.artifacts import Store
from ...user_error import UserError
from ..merge import LOCK

UTILISATION = 0.35  # the share of its peak speed that a machine is taken to reach, as in `bench plan`


class ReproduceError(UserError):
    """A folder of which no cell can be made again."""


@dataclass(frozen=True)
class Candidate:
    """A record with the cell of the folder's matrix that makes it, and the estimated hours of doing so."""

    record: Record
    matrix: Matrix
    plan: Plan
    cell: Cell
    hours: float


def candidates(
    folder: Path, filter: str | None, device: str, plugins: Sequence[Path] = (), fetch: bool = False
) -> tuple[list[Record], list[Candidate]]:
    """All records of a folder, and the cells that a filter selects and its matrices make, cheapest first.

    Args:
        fetch: whether weights that are missing may be downloaded.

    Raises:
        ReproduceError: there is no such cell, or a matrix cannot be planned here.
    """
    records = read_records(folder / "records")
    if not records:
        raise RecordError(f"no records in {folder / 'records'}")
    files = sorted(folder.glob(LOCK))
    if not files:
        raise ReproduceError(f"{folder} has no matrix.lock.yaml: nothing says how its cells are made")
    try:
        accept = parse_filter(filter)
    except ValueError as error:
        raise ReproduceError(str(error)) from error
    done = [r for r in records if r.status == "done" and not r.real and selects(accept, r.cell)]
    found: dict[tuple[str, ...], Candidate] = {}
    for file in files:
        try:
            matrix = load_matrix(file, plugins=tuple(plugins))
            plan = make_plan(matrix, device=device, fetch=fetch)
        except MatrixError as error:
            lines = "\n".join(map(str, error.problems)) or str(error)
            raise ReproduceError(f"{file} cannot be planned here:\n{lines}") from error
        for candidate in _of_matrix(done, matrix, plan, device):
            labels = tuple(candidate.record.cell.values())
            if labels not in found or candidate.cell.key == candidate.record.key:
                found[labels] = candidate
    if not found:
        there = listed([" · ".join(r.cell.values()) for r in records if r.status == "done" and not r.real])
        what = f"no done cell of {folder} fits --filter {filter!r}" if filter else f"no done cell in {folder}"
        raise ReproduceError(f"{what} and is in its matrix; done are {there or 'none'}")
    return records, sorted(found.values(), key=lambda one: one.hours)


def _of_matrix(records: Iterable[Record], matrix: Matrix, plan: Plan, device: str) -> list[Candidate]:
    cells = {tuple(cell.identity.values()): cell for cell in plan.cells if cell.skipped is None}
    pairs = [(r, cells[tuple(r.cell.values())]) for r in records if tuple(r.cell.values()) in cells]
    accelerator = ACCELERATORS["h100" if device == "cuda" else "cpu"]
    estimated = costs(plan, plan.needed([cell for _, cell in pairs]))
    hours = {
        id: cost.hours(accelerator, matrix.precision, UTILISATION) or 0.0 for id, cost in estimated.items()
    }
    return [
        Candidate(record, matrix, plan, cell, sum(hours[stage.id] for stage in plan.needed([cell])))
        for record, cell in pairs
    ]


def remake(
    chosen: Sequence[Candidate],
    work: Path,
    options: Callable[[Path], RunOptions],
    *watchers: Watcher,
) -> list[Record]:
    """The records of cells that are made in a folder, with a cache of their own there, in the same order."""
    made: dict[tuple[str, ...], Record] = {}
    plans = {id(one.plan): one for one in chosen}
    for number, first in enumerate(plans.values()):
        cells = [one.cell for one in chosen if one.plan is first.plan]
        opened = OpenPlan(first.matrix, first.plan, cells, Store(work / "cache"))
        out = work / ("results" if len(plans) == 1 else f"results-{number + 1}")
        for record in run(opened, options(out), *watchers):
            made[tuple(record.cell.values())] = record
    return [made[tuple(one.record.cell.values())] for one in chosen]
