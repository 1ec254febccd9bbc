"""The record of a cell: one JSON file that holds everything a leaderboard is made from."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..metrics.names import check_name
from ..store.disk import replace_text
from ..store.hashes import identity
from ..user_error import UserError

CELL = ("dataset", "tokenizer", "regularizer", "generator", "seed")
STATUSES = ("done", "failed", "skipped")
# How many levels of each field are spread over lines: one line per metric, per curve, per cost.
DEPTHS = {"metrics": 1, "curves": 2, "cost": 1, "provenance": 1}


class RecordError(UserError, ValueError):
    """A record that cannot be read; the message names the file and is meant for users."""


@dataclass(frozen=True)
class Record:
    """What became of one (dataset, tokenizer, regularizer, generator, seed) of the matrix.

    `metrics` maps a full name to {value, n, protocol, scope, better, unit, about}; generator-scope names end
    in "@guidance", those of the `real` row don't. JSON has no NaN: a value that isn't finite is stored as
    null with a `note` that says which ("nan", "inf", "-inf"), in curves and costs as null.
    """

    cell: dict[str, str]
    key: str
    status: str
    reason: str | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    cost: dict[str, float | None] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)
        plain = {name: plain_json(getattr(self, name)) for name in ("curves", "cost", "provenance")}
        plain["cell"] = {name: self.cell[name] for name in CELL}
        plain["metrics"] = {name: _metric(self.metrics[name]) for name in sorted(self.metrics)}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def real(self) -> bool:
        """Whether this is the row of the held-out images."""
        return self.cell["tokenizer"] == self.cell["regularizer"] == self.cell["generator"] == "real"

    @property
    def filename(self) -> str:
        """The cell's labels; with a hash of them where a file system could not tell them apart."""
        text = "--".join(self.cell.values())
        safe = "--".join(re.sub(r"[^a-z0-9._=]+", "-", v.lower()).strip("-") for v in self.cell.values())
        if safe != text or len(text) > 150:
            safe = f"{safe[:150]}-{_digest(self.cell, 8)}"
        return f"{safe}.json"

    def to_json(self) -> str:
        """Stable text, ordered by metric name, for small diffs."""
        lines = (
            f" {json.dumps(name)}: {_dump(value, DEPTHS.get(name, 0), 1)}" for name, value in _items(self)
        )
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The inverse of `to_json`; ValueError says what is wrong with the text.

        What an older version didn't write has its default.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} where an object belongs")
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        for problem, keys in (("unknown", data.keys() - known), ("missing", needed - data.keys())):
            if keys:
                raise ValueError(f"{problem} {', '.join(map(repr, sorted(keys)))}{_writer(data)}")
        return cls(**data)


def write_record(folder: str | Path, record: Record) -> Path:
    """Stores a record as `folder`/CELL.json, whole or not at all; `folder` is results/NAME/records."""
    path = Path(folder) / record.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, record.to_json())
    return path


def read_records(folder: str | Path) -> list[Record]:
    """All records in `folder` in the order of their cells; none if there is no such folder."""
    return in_order(map(_read, sorted(Path(folder).glob("*.json"))))


def new_records(folder: str | Path, seen: dict[str, tuple[int, ...]]) -> list[Record]:
    """Those that have been written since `seen`, by any process; it maps files to their identities."""
    found: list[Record] = []
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(FileNotFoundError):  # another run has just set it aside
            state = identity(path)
            if seen.get(path.name) != state:
                found.append(_read(path))
                seen[path.name] = state
    return found


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sorted by cell, numbers in labels by their value; the `real` row last."""
    return sorted(records, key=lambda r: (r.cell["dataset"], r.real, [natural(v) for v in r.cell.values()]))


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts seed 10 after seed 9 and weight=0.5 after weight=0.01."""
    pieces = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(pieces) if p]


def comparable(record: Record) -> dict[str, Any]:
    """All that two runs of one cell must agree on, bit for bit: everything but cost and provenance."""
    return {name: value for name, value in _items(record) if name not in ("cost", "provenance")}


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
        return [plain_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path) -> Record:
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{path} is not a record: {error}") from error


def _metric(entry: dict[str, Any]) -> dict[str, Any]:
    value = entry["value"]
    if value is None or math.isfinite(value):
        return plain_json(entry)
    return {**plain_json(entry), "note": str(float(value))}


def _check(record: Record) -> None:
    """Whatever someone who edits or writes records by hand can get wrong."""
    if not isinstance(record.cell, dict) or set(record.cell) != set(CELL):
        raise ValueError(f"cell must have {', '.join(CELL)}, not {record.cell!r}")
    for name, value in record.cell.items():
        if not isinstance(value, str):
            raise ValueError(f"cell.{name} must be text, not {value!r}")
    if record.status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {record.status!r}")
    for name in DEPTHS:
        if not isinstance(getattr(record, name), dict):
            raise ValueError(f"{name} must be an object, not {getattr(record, name)!r}")
    for name, entry in record.metrics.items():
        missing = [
            k for k in ("value", "n", "protocol", "scope") if not isinstance(entry, dict) or k not in entry
        ]
        if missing:
            raise ValueError(f"the metric {name!r} has no {', '.join(missing)}")
        if entry["scope"] not in ("tokenizer", "generator"):
            raise ValueError(f"the metric {name!r} has scope {entry['scope']!r}; known: tokenizer, generator")
        if isinstance(entry["value"], str) or not isinstance(entry["protocol"], dict):
            raise ValueError(f"the metric {name!r} has a value or a protocol of the wrong type")
        check_name(name, entry["protocol"])


def _writer(data: dict[str, Any]) -> str:
    """The version that wrote a record, where it is another one."""
    said = data.get("provenance")
    version = said.get("latentbench") if isinstance(said, dict) else None
    other = version not in (None, __version__)
    return f" (written by latentbench {version}, this is {__version__})" if other else ""


def _items(record: Record) -> list[tuple[str, Any]]:
    return [(each.name, getattr(record, each.name)) for each in fields(record)]


def _dump(value: Any, depth: int, indent: int) -> str:
    if depth == 0 or not value:
        return json.dumps(value, allow_nan=False, separators=(",", ": "))  # long rows of numbers
    pad = " " * (indent + 1)
    lines = [f"{pad}{json.dumps(name)}: {_dump(item, depth - 1, indent + 1)}" for name, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def _digest(value: Any, digits: int) -> str:
    text = json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
