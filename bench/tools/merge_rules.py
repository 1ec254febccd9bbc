"""The rules of a merge: which settings of results folders must be equal, may differ, or are only noted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..leaderboard.folders import ResultsFolder
from ..leaderboard.rows import full_protocol, shared_name
from ..options.words import label_text, listed
from ..records.provenance import flat
from ..records.record import Record

# Settings that all rows of a matrix share. For WHOLE, a missing key differs from a present one.
WHOLE, SHARED = ("reconstruction", "augment"), ("teacher", "reference", "normalise")
# Keys of a row that a resolved matrix leaves out where they are the default.
TRAINING = ("optimizer", "weights", "start", "budget", "init", "reference", "teacher")
FRAME = (*TRAINING, "sampler", "autoguidance")
ROWS = ("tokenizers", "regularizers", "generators")  # a dataset is known by its fingerprint instead
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

Setting = tuple[str, str, Any]  # aspect (one of ALLOWED), name, value


class Values:
    """The values of settings, and the folders that have each value."""

    def __init__(self) -> None:
        self.folders: dict[tuple[str, str], dict[str, list[str]]] = {}

    def add(self, aspect: str, name: str, value: str, folder: str) -> None:
        folders = self.folders.setdefault((aspect, name), {}).setdefault(value, [])
        if folder not in folders:
            folders.append(folder)


@dataclass(frozen=True)
class Difference:
    """A setting with several values; `values` maps each to the folders that have it."""

    aspect: str  # one of ALLOWED
    what: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"    {value}: {', '.join(folders)}" for value, folders in self.values.items()]
        return "\n".join([f"  {self.what}", *lines])


def differences(sources: Sequence[ResultsFolder]) -> list[Difference]:
    """The settings that must not differ but do; a setting that a record lacks differs from nothing."""
    values = Values()
    for source in sources:
        settings = [_settings(record, not source.matrices) for record in source.records]
        settings += map(_meanings, source.matrices.values())
        for aspect, name, value in chain.from_iterable(settings):
            values.add(aspect, name, _text(value), source.name)
    return [
        Difference(aspect, name, folders)
        for (aspect, name), folders in values.folders.items()
        if len(folders) > 1 or aspect == "dirty"
    ]


def refusal(refused: Sequence[Difference]) -> str:
    """The error message: all differences, each kind with what to do about it."""
    lines = ["these results do not go together; nothing was written"]
    for aspect, advice in ALLOWED.items():
        texts = [str(difference) for difference in refused if difference.aspect == aspect]
        if texts:
            lines += [*texts, f"  → {advice}"]
    return "\n".join(lines)


def protocol_notes(sources: Sequence[ResultsFolder]) -> list[str]:
    """Notes on metrics under several protocols, which a leaderboard keeps in separate columns."""
    metrics: dict[tuple[str, str, str], dict[str, tuple[dict[str, Any], list[str]]]] = {}
    for source in sources:
        for record in source.records:
            for name, entry in record.metrics.items():
                protocol = full_protocol(entry)
                metric = (
                    record.cell["dataset"],
                    shared_name(record, name),
                    "of real images" if record.real else "",
                )
                by_text = metrics.setdefault(metric, {})
                folders = by_text.setdefault(_text(protocol), (protocol, []))[1]
                if source.name not in folders:
                    folders.append(source.name)
    notes: dict[str, list[str]] = {}
    for metric, by_text in metrics.items():
        if len({tuple(sorted(folders)) for _, folders in by_text.values()}) > 1:
            sides = _protocol_sides(list(by_text.values()))
            notes.setdefault(sides, []).append(" ".join(filter(None, metric)))
    return [
        f"several protocols, kept in columns of their own: {listed(names)} ({sides})"
        for sides, names in notes.items()
    ]


def _protocol_sides(by_protocol: Sequence[tuple[dict[str, Any], list[str]]]) -> str:
    """The keys in which protocols differ, by the folders that have them."""
    protocols = [flat(protocol) for protocol, _ in by_protocol]
    all_keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    keys = [key for key in all_keys if len({_text(p.get(key)) for p in protocols}) > 1]
    sides = []
    for protocol, (_, folders) in zip(protocols, by_protocol, strict=True):
        values = ", ".join(f"{key} {_short(protocol.get(key))}" for key in keys)
        sides.append(f"{', '.join(folders)}: {values}")
    return "; ".join(sides)


def provenance_notes(sources: Sequence[ResultsFolder]) -> list[str]:
    """Notes on differences that change numbers in their last digits or not at all, and on what is unknown."""
    notes = []
    for name in ("git_commit", "device", "threads"):
        values = Values()
        for source in sources:
            for record in source.records:
                if record.provenance.get(name) is not None:
                    values.add("", name, str(record.provenance[name])[:12], source.name)
        for folders in values.folders.values():
            if len(folders) > 1:
                sides = "; ".join(f"{value}: {', '.join(names)}" for value, names in folders.items())
                notes.append(f"several values of {name}: {sides}")
    bare = [source.name for source in sources if not source.matrices]
    if bare and len(sources) > 1:
        notes.append(f"no matrix.lock.yaml in {', '.join(bare)}: what its labels mean could not be checked")
    older = [source.name for source in sources if any(not r.provenance for r in source.records)]
    if older:
        notes.append(f"records without provenance in {', '.join(older)}: their versions could not be checked")
    return notes


def rows_of(matrix: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A section's rows by label; datasets are a list, of rows that are labelled or have the parts' names."""
    rows = matrix.get(section) or {}
    if isinstance(rows, Mapping):
        return dict(rows)
    return {label_text(row.get("label", row["use"])): row for row in rows}  # `label` may be the part's option


def _settings(record: Record, alone: bool) -> Iterable[Setting]:
    """The settings that a record's numbers were made with.

    The budget only without a matrix (`alone`), for a matrix knows the rows with budgets of their own.
    """
    facts, dataset = record.provenance, record.cell["dataset"]
    if alone:
        for name, value in (facts.get("budget") or {}).items():
            yield "budget", f"budget.{name}", value
    if facts.get("precision"):
        yield "precision", "precision", facts["precision"]
    if facts.get("git_dirty"):
        yield "dirty", "made with code that was not committed", True
    if facts.get("python"):
        yield "versions", "python", ".".join(facts["python"].split(".")[:2])
    for name, value in {"latentbench": facts.get("latentbench"), **(facts.get("packages") or {})}.items():
        if value is not None:
            yield "versions", name, value
    for name, value in (facts.get("parts") or {}).items():
        yield "parts", name, value
    for entry in record.metrics.values():
        if data := entry["protocol"].get("data"):
            yield "data", f"images of {dataset}", data


def _meanings(matrix: Mapping[str, Any]) -> Iterable[Setting]:
    """The settings behind a matrix's labels, and those that all its rows share."""
    for name, value in (matrix.get("budget") or {}).items():
        yield "budget", f"budget.{name}", value
    shared = flat({name: matrix[name] for name in SHARED if name in matrix})
    for name, value in {**{name: matrix[name] for name in WHOLE if name in matrix}, **shared}.items():
        yield "meaning", name, _placeless(value)
    for section in ROWS:
        for label, row in rows_of(matrix, section).items():
            options = {key: value for key, value in row.items() if key not in (*FRAME, "guidance")}
            for name, value in {**{key: row.get(key) for key in FRAME}, **flat(options)}.items():
                yield "meaning", f"{section}.{label}.{name}", _placeless(value)


def _placeless(value: Any) -> Any:
    """The value with paths cut to the file's name, whose folder differs between machines."""
    if isinstance(value, Mapping):
        return {key: _placeless(item) for key, item in value.items()}
    return value.rpartition("/")[2] if isinstance(value, str) else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
