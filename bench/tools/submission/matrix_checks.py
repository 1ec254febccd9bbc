"""Checks of records against the matrix in their folder: keys, parts and protocols, planned anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...matrix.load import load_matrix
from ...matrix.yaml_text import MatrixError
from ...options.words import listed
from ...plan.make import make_plan
from ...plan.plan import Cell, Plan
from ...records.provenance import flat, parts
from ...records.record import Record
from .declared_protocols import DeclaredProtocols
from .findings import Finding
from .record_checks import Named

UNKNOWN_CELL = "its cell isn't in the matrix of the folder"
ADVICE = "put the matrix.lock.yaml there that the run wrote, or make the cell anew under this matrix"


def matrix_findings(files: list[Path], records: Named) -> Iterator[Finding]:
    """All findings on records against the resolved matrices of their folder.

    A matrix that can't be planned here, as where its data are missing, is told and not held against it.
    """
    cells: list[tuple[Plan, Cell]] = []
    unplanned = []
    devices = {str(r.provenance.get("device", "cpu")).partition(":")[0] for r in records.values()} or {"cpu"}
    for place in files:
        for device in sorted(devices):
            try:
                plan = make_plan(load_matrix(place), device=device)
            except MatrixError as error:
                unplanned.append(place.name)
                what = f"it can't be planned here, so keys and protocols aren't checked: {_first(error)}"
                yield Finding((place.name,), what, "check it where its data and plugins are", refuses=False)
                break
            cells += [(plan, cell) for cell in plan.cells]
    planned: dict[tuple[str, ...], list[tuple[Plan, Cell]]] = {}
    for plan, cell in cells:
        planned.setdefault(tuple(cell.identity.values()), []).append((plan, cell))
    declared: dict[int, DeclaredProtocols] = {id(plan): DeclaredProtocols(plan) for plan, _ in cells}
    untold: dict[str, list[str]] = {}
    for file, record in records.items():
        found = planned.get(tuple(record.cell.values()), [])
        if not found:
            if not unplanned:
                yield Finding((file,), UNKNOWN_CELL, ADVICE)
            continue
        plan, cell = next(((p, c) for p, c in found if c.key == record.key), found[0])
        if not record.key == cell.key:
            yield _another_key(file, record, plan, cell)
        if _older(record, plan, cell) == "":
            yield from _protocol_findings(file, record, cell, declared[id(plan)], untold)
    yield from _left_out(planned, records)
    if untold:
        names = listed(sorted(untold))
        what = f"the protocols of {names} can't be told from the matrix alone"
        yield Finding(("matrix.lock.yaml",), what, "`bench reproduce` compares them", refuses=False)


def _another_key(file: str, record: Record, plan: Plan, cell: Cell) -> Finding:
    """The finding on a key that isn't the matrix's: why, where that can be told."""
    if not all(stage.known for stage in plan.needed([cell])):
        what = "its key can't be computed here: data or weights are missing"
        return Finding((file,), what, "check it where they are", refuses=False)
    if older := _older(record, plan, cell):
        what = f"its key can't be computed with this version: {older}"
        return Finding((file,), what, "nothing, or make it anew with this version", refuses=False)
    return Finding((file,), "its key isn't that of its cell in the folder's matrix", ADVICE)


def _older(record: Record, plan: Plan, cell: Cell) -> str:
    """How the parts that made a record differ from this version's; empty if they are the same."""
    stated = record.provenance.get("parts")
    if not isinstance(stated, dict):
        return "the record doesn't say which versions of parts made it"
    ours = parts(stage.config for stage in plan.needed([cell]))
    names = [name for name in dict.fromkeys([*stated, *ours]) if stated.get(name) != ours.get(name)]
    return listed(
        [f"{name} {stated.get(name, 'missing')}, here {ours.get(name, 'missing')}" for name in names]
    )


def _protocol_findings(
    file: str, record: Record, cell: Cell, declared: DeclaredProtocols, untold: dict[str, list[str]]
) -> Iterator[Finding]:
    for name, entry in record.metrics.items():
        try:
            ours = declared.of(cell, name, entry)
        except KeyError:
            what = f"the metric {name} isn't one of the matrix's evaluators"
            yield Finding((file,), what, ADVICE)
            continue
        if ours is None:
            untold.setdefault(name.partition("@")[0].partition("[")[0], []).append(file)
        elif gaps := _gaps({"n": entry["n"], **entry["protocol"]}, ours):
            what = f"the protocol of {name} isn't what its evaluator declares: {gaps}"
            yield Finding((file,), what, "make the cell anew with the matrix's evaluators")


def _gaps(stated: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The keys in which a record's protocol differs from the declared one."""
    a, b = flat(json.loads(json.dumps(stated))), flat(json.loads(json.dumps(ours)))
    # Whether samples are asked for by class depends on the generator, which a plan doesn't ask.
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k) and k != "sample_classes"]
    return listed([f"{key} is {json.dumps(a.get(key))}, not {json.dumps(b.get(key))}" for key in keys])


def _left_out(planned: Mapping[tuple[str, ...], Any], records: Named) -> Iterator[Finding]:
    """A note on cells of the matrix that have no record: whoever reads the rows should know."""
    there = {tuple(record.cell.values()) for record in records.values()}
    missing = ["/".join(cell) for cell in planned if cell not in there]
    if missing:
        what = f"{len(missing)} of {len(planned)} cells of the matrix have no record: {listed(missing)}"
        yield Finding(("matrix.lock.yaml",), what, "say why they are left out", refuses=False)


def _first(error: MatrixError) -> str:
    return str(error.problems[0]) if error.problems else str(error)
