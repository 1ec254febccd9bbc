"""What of several results folders must not differ, what may where it is allowed, and what is only said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..leaderboard.folders import ResultsFolder
from ..leaderboard.rows import full_protocol
from ..options.words import listed
from ..records.provenance import flat
from ..records.record import Record
from .combined_matrix import rows_of, without

# What all rows of a matrix have in common; of the first also what one doesn't name says something.
WHOLE, SHARED = ("reconstruction", "augment"), ("teacher", "reference", "normalise")
# Keys of a row that a resolved matrix leaves out where they are the default.
FRAME = ("optimizer", "sampler", "weights", "start", "budget", "init", "reference", "teacher")
ROWS = ("tokenizers", "regularizers", "generators")  # what a dataset is, its fingerprint says
ALLOWED = {
    "versions": "make them anew with one version, or merge with --allow versions",
    "dirty": "commit and make them anew, or merge with --allow dirty",
    "precision": "make them anew in one precision, or merge with --allow precision",
    "parts": "a part's version says that its numbers have changed: make them anew with one version",
    "budget": "rows of other budgets are not to be ranked together: make them anew under one",
    "data": "numbers on other images are not to be compared: make them anew on one set",
    "meaning": "a label has one meaning: rename one in its matrix and make it anew",
}
HARMLESS = ("versions", "dirty", "precision")


@dataclass(frozen=True)
class Difference:
    """Something of which there are several values; `values` maps each to the folders that have it."""

    aspect: str  # one of ALLOWED
    what: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        said = [f"    {value}: {', '.join(folders)}" for value, folders in self.values.items()]
        return "\n".join([f"  {self.what}", *said])


def differences(sources: Sequence[ResultsFolder]) -> list[Difference]:
    """What must not differ between any two records; what a record doesn't say differs from nothing."""
    values: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in sources:
        said = [_settings(record, not one.matrices) for record in one.records]
        said += map(_meanings, one.matrices.values())
        for aspect, name, value in chain.from_iterable(said):
            _note(values, (aspect, name), _text(value), one.name)
    return [
        Difference(aspect, name, said)
        for (aspect, name), said in values.items()
        if len(said) > 1 or aspect == "dirty"
    ]


def apart(sources: Sequence[ResultsFolder]) -> list[str]:
    """Metrics of a dataset under several protocols, which a leaderboard keeps in columns of their own."""
    found: dict[tuple[str, str, str], dict[str, tuple[dict[str, Any], list[str]]]] = {}
    for one in sources:
        for record in one.records:
            for name, entry in record.metrics.items():
                protocol = full_protocol(entry)
                kind = "of real images" if record.real else ""
                by_text = found.setdefault((record.cell["dataset"], name, kind), {})
                folders = by_text.setdefault(_text(protocol), (protocol, []))[1]
                if one.name not in folders:
                    folders.append(one.name)
    notes: dict[str, list[str]] = {}
    for (dataset, name, kind), by_text in found.items():
        if len({tuple(sorted(folders)) for _, folders in by_text.values()}) > 1:
            protocols = [flat(protocol) for protocol, _ in by_text.values()]
            keys = [key for key in _keys(protocols) if len({_text(p.get(key)) for p in protocols}) > 1]
            sides = [
                f"{', '.join(folders)}: {', '.join(f'{key} {_short(flat.get(key))}' for key in keys)}"
                for flat, (_, folders) in zip(protocols, by_text.values(), strict=True)
            ]
            notes.setdefault("; ".join(sides), []).append(" ".join(filter(None, (dataset, name, kind))))
    return [
        f"several protocols, kept in columns of their own: {listed(names)} ({sides})"
        for sides, names in notes.items()
    ]


def beside(sources: Sequence[ResultsFolder]) -> list[str]:
    """What may differ, for it is in no number or in its last digits."""
    notes = []
    for name in ("git_commit", "device", "threads"):
        values: dict[tuple[str, str], dict[str, list[str]]] = {}
        for one in sources:
            for record in one.records:
                if record.provenance.get(name) is not None:
                    _note(values, ("", name), str(record.provenance[name])[:12], one.name)
        for said in values.values():
            if len(said) > 1:
                sides = "; ".join(f"{value}: {', '.join(folders)}" for value, folders in said.items())
                notes.append(f"several values of {name}: {sides}")
    bare = [one.name for one in sources if not one.matrices]
    if bare and len(sources) > 1:
        notes.append(f"no matrix.lock.yaml in {', '.join(bare)}: what its labels mean could not be checked")
    older = [one.name for one in sources if any(not r.provenance for r in one.records)]
    if older:
        notes.append(f"records without provenance in {', '.join(older)}: their versions could not be checked")
    return notes


def refusal(found: Sequence[Difference]) -> str:
    """All differences, each kind with what to do about it."""
    lines = ["these results do not go together; nothing was written"]
    for aspect, advice in ALLOWED.items():
        mine = [str(each) for each in found if each.aspect == aspect]
        lines += [*mine, f"  → {advice}"] if mine else []
    return "\n".join(lines)


def _settings(record: Record, alone: bool) -> Iterable[tuple[str, str, Any]]:
    """(aspect, name, value) of all that a record says about how it was made.

    The budget only where there is no matrix, which knows the rows that have their own.
    """
    said, dataset = record.provenance, record.cell["dataset"]
    for name, value in (said.get("budget") or {}).items() if alone else ():
        yield "budget", f"budget.{name}", value
    if said.get("precision"):
        yield "precision", "precision", said["precision"]
    if said.get("git_dirty"):
        yield "dirty", "made with code that was not committed", True
    if said.get("python"):
        yield "versions", "python", ".".join(said["python"].split(".")[:2])
    for name, value in {"latentbench": said.get("latentbench"), **(said.get("packages") or {})}.items():
        if value is not None:
            yield "versions", name, value
    for name, value in (said.get("parts") or {}).items():
        yield "parts", name, value
    for entry in record.metrics.values():
        if data := entry["protocol"].get("data"):
            yield "data", f"images of {dataset}", data


def _meanings(matrix: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
    """What a matrix's labels stand for, and what all its rows share."""
    for name, value in (matrix.get("budget") or {}).items():
        yield "budget", f"budget.{name}", value
    whole, shared = ({k: matrix[k] for k in names if k in matrix} for names in (WHOLE, SHARED))
    for name, value in {**whole, **flat(shared)}.items():
        yield "meaning", name, _placeless(value)
    for section in ROWS:
        for label, row in rows_of(matrix, section).items():
            beside = {key: row.get(key) for key in FRAME}
            for name, value in {**beside, **flat(without(row, (*FRAME, "guidance")))}.items():
                yield "meaning", f"{section}.{label}.{name}", _placeless(value)


def _placeless(value: Any) -> Any:
    """Of a file only the name: every machine has it elsewhere."""
    if isinstance(value, Mapping):
        return {key: _placeless(item) for key, item in value.items()}
    return value.rpartition("/")[2] if isinstance(value, str) else value


def _keys(flats: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for flat in flats for key in flat))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _note(
    values: dict[tuple[str, str], dict[str, list[str]]], key: tuple[str, str], value: str, folder: str
) -> None:
    folders = values.setdefault(key, {}).setdefault(value, [])
    if folder not in folders:
        folders.append(folder)
