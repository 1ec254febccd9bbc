"""The record of a cell: everything that a leaderboard is made from, as JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .. import __version__
from ..metrics.names import check_name
from .labels import AXES, is_real, natural, slug

STATUSES = ("done", "failed", "skipped")
SCOPES = ("tokenizer", "generator")
DIRECTIONS = ("higher", "lower")  # that may be better
SIDES = ("above", "below")  # of a limit, on which a value lies
FIRST = ("value", "note", "bound", "n", "protocol", "scope", "better", "unit", "about")  # keys of a metric
# Levels of each field that are spread over lines in JSON: one line per metric, per curve, per cost.
DEPTHS = {"metrics": 1, "curves": 2, "cost": 1, "provenance": 1, "missing": 1}


@dataclass(frozen=True)
class Record:
    """The outcome of one cell (dataset, tokenizer, regularizer, generator, seed) of the matrix.

    `metrics` maps a full name to {value, n, protocol, scope, better, unit, about}; generator-scope names end
    in "@guidance", except those of the `real` row. `better` is "higher", "lower" or null. With a `bound`
    ("above", "below"), the value is a limit that the metric lies beyond; `class_bounds` has those of single
    classes. `missing` maps an evaluator or a metric without a number (with "@guidance" as above) to {reason,
    failed, scope}; `failed` says that an exception was raised. JSON has no NaN: a value that isn't finite is
    stored as null with a `note` ("nan", "inf", "-inf"), in curves and costs as null alone.
    """

    cell: dict[str, str]
    key: str
    status: str
    reason: str | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    cost: dict[str, float | None] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)
        plain = {name: plain_json(getattr(self, name)) for name in ("curves", "cost", "provenance")}
        plain["cell"] = {name: self.cell[name] for name in AXES}
        plain["metrics"] = {name: _metric(self.metrics[name]) for name in sorted(self.metrics)}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def real(self) -> bool:
        """Whether this is the row of the held-out images."""
        return is_real(self.cell)

    @property
    def filename(self) -> str:
        """The cell's labels, followed by a hash of them where a file system could confuse two cells."""
        text = "--".join(self.cell.values())
        safe = "--".join(slug(v.lower(), keep="._=", fill="-").strip("-") for v in self.cell.values())
        if safe != text or len(text) > 150:
            safe = f"{safe[:150]}-{_digest(self.cell, 8)}"
        return f"{safe}.json"

    def to_json(self) -> str:
        """Everything in one text, ordered by metric name; files have the shorter form of `compact.py`."""
        return json_text(dict(named_fields(self)))

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The inverse of `to_json`.

        Raises:
            ValueError: with what is wrong with the text.
        """
        return cls.from_fields(json_object(text))

    @classmethod
    def from_fields(cls, data: dict[str, Any]) -> Record:
        """The record of fields by name; those that an older version didn't write have their defaults.

        Raises:
            ValueError: with what is wrong with them.
        """
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        for problem, keys in (("unknown", data.keys() - known), ("missing", needed - data.keys())):
            if keys:
                raise ValueError(f"{problem} {', '.join(map(repr, sorted(keys)))}{_writer(data)}")
        return cls(**data)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sorted by cell, numbers in labels by their value; the `real` row last."""
    return sorted(records, key=lambda r: (r.cell["dataset"], r.real, [natural(v) for v in r.cell.values()]))


def comparable(record: Record) -> dict[str, Any]:
    """The fields that two runs of one cell must agree on, bit for bit: all but cost and provenance."""
    return {name: value for name, value in named_fields(record) if name not in ("cost", "provenance")}


def protocol_id(protocol: dict[str, Any]) -> str:
    """Six hex digits that stand for a protocol; the order of its keys doesn't matter."""
    return _digest(protocol, 6)


def plain_json(value: Any) -> Any:
    """The value in JSON's own types: numpy's and torch's scalars as numbers, non-finite numbers as None."""
    if type(value) is float:  # most of what a record holds
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        if set(map(type, value)) == {float} and math.isfinite(sum(value)):  # so is each: fast for long lists
            return list(value)
        return [plain_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metric(entry: dict[str, Any]) -> dict[str, Any]:
    value = entry["value"]
    plain: dict[str, Any] = plain_json(entry)
    if value is not None and not math.isfinite(value):
        plain["note"] = str(float(value))
    return {key: plain[key] for key in FIRST if key in plain} | plain


def _check(record: Record) -> None:
    """Checks everything that someone who edits or writes records by hand can get wrong."""
    if not isinstance(record.cell, dict) or set(record.cell) != set(AXES):
        raise ValueError(f"cell must have {', '.join(AXES)}, not {record.cell!r}")
    for name, value in record.cell.items():
        if not isinstance(value, str):
            raise ValueError(f"cell.{name} must be text, not {value!r}")
    if record.status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {record.status!r}")
    for name in DEPTHS:
        if not isinstance(getattr(record, name), dict):
            raise ValueError(f"{name} must be an object, not {getattr(record, name)!r}")
    for name, entry in record.metrics.items():
        keys = entry if isinstance(entry, dict) else {}
        missing = [key for key in ("value", "n", "protocol", "scope") if key not in keys]
        if missing:
            raise ValueError(f"the metric {name!r} has no {', '.join(missing)}")
        if entry["scope"] not in SCOPES:
            raise ValueError(f"the metric {name!r} has scope {entry['scope']!r}; known: {', '.join(SCOPES)}")
        if entry.get("better") not in (None, *DIRECTIONS):
            known = ", ".join(DIRECTIONS)
            raise ValueError(f"the metric {name!r} has better {entry['better']!r}; known: {known}, null")
        bounds = [entry["bound"]] if "bound" in entry else []
        for side in (*bounds, *entry.get("class_bounds", {}).values()):
            if side not in SIDES or (bounds and entry["value"] is None):
                known = ", ".join(SIDES)
                raise ValueError(f"the metric {name!r} has bound {side!r}; known, beside a value: {known}")
        if not _is_number(entry["value"]) or not isinstance(entry["protocol"], dict):
            raise ValueError(f"the metric {name!r} has a value or a protocol of the wrong type")
        check_name(name, entry["protocol"])


def _is_number(value: Any) -> bool:
    """Whether a value is a number that floats hold, or null."""
    try:
        return value is None or (not isinstance(value, str) and float(value) is not None)
    except (TypeError, ValueError, OverflowError):
        return False


def _writer(data: dict[str, Any]) -> str:
    """The version that wrote a record, if it isn't this one."""
    provenance = data.get("provenance")
    version = provenance.get("latentbench") if isinstance(provenance, dict) else None
    if version in (None, __version__):
        return ""
    return f" (written by latentbench {version}, this is {__version__})"


def named_fields(record: Record) -> list[tuple[str, Any]]:
    """The record's fields with their values; `missing` only if an evaluator is."""
    items = [(item.name, getattr(record, item.name)) for item in fields(record)]
    return [(name, value) for name, value in items if name != "missing" or value]


def json_text(named: dict[str, Any]) -> str:
    """Fields of a record as JSON: a line for each metric, curve and cost, for small diffs."""
    lines = (f" {json.dumps(name)}: {_dump(value, DEPTHS.get(name, 0), 1)}" for name, value in named.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
        ValueError: the text is no JSON, or holds something else.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError(f"a {type(data).__name__} where an object belongs")
    return data


def _dump(value: Any, depth: int, indent: int) -> str:
    if depth == 0 or not value:
        return json.dumps(value, allow_nan=False, separators=(",", ": "))  # long rows of numbers
    pad = " " * (indent + 1)
    lines = [f"{pad}{json.dumps(name)}: {_dump(item, depth - 1, indent + 1)}" for name, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def _digest(value: Any, digits: int) -> str:
    text = json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
